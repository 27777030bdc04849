/**
 * Host memory of registered checkpoints: loading, pinning, the shared pool, use in place, leases.
 *
 * @packageDocumentation
 */
export type { PoolStats } from './block-pool.ts'
export {
  CheckpointStore,
  DEFAULT_SEGMENT_BYTES,
  type CheckpointMetas,
  type CheckpointStoreOptions,
  type Lease,
  type RegisterOptions,
} from './checkpoint-store.ts'
export { Reservation } from './reservation.ts'
export { shareOf, type FileShare } from './share.ts'
export type { CheckpointSource, Fill, NamedTensorInput, Place, TensorData, TensorInput } from './source.ts'
