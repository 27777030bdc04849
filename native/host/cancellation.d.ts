/** Cancels the operation it was passed to: the operation rejects with code ABORTED once all of its threads have stopped. */
export interface NativeCancellation {
  cancel(): void
}
