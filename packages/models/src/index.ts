/**
 * Names, shapes and dtypes of published checkpoints, computed from their architecture.
 *
 * @packageDocumentation
 */
export type { Architecture, GqaAttention, MlaAttention, MoeLayers, ResolvedScale } from './architecture.ts'
export { MODELS, model } from './catalog.ts'
export { sharedManifest } from './manifest.ts'
export type { Model, PublishedCheckpoint, PublishedUpdate } from './model.ts'
export { resolveScale, scaleTo, scaledBytes, type ScaleOptions } from './scale.ts'
export { engineLayout, keptBytes, type Layout, type LayoutTensor, type Placement } from './slices.ts'
export { checkpointTensors, type CheckpointTensor } from './tensors.ts'
