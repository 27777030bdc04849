/** Cancels the operation it was given to: that then rejects with code ABORTED, once no thread is at work on it any more. */
export interface NativeCancellation {
  cancel(): void
}
