/**
 * Devices and collectives over the native addons, and the host memory services they share.
 *
 * @packageDocumentation
 */
export { createHost } from './host/host.ts'
export { createHostDevice, type HostDeviceOptions } from './host/device.ts'
export { removeStaleRings } from './host/ring.ts'
export { probeCuda } from './cuda/addon.ts'
export { createCudaDevice, type CudaDevice, type CudaDeviceOptions } from './cuda/device.ts'
export type { CudaDeviceInfo, CudaLibrary, CudaProbe } from '@ckpt/native-cuda'
export { createTcpEndpoint, type TcpEndpoint, type TcpEndpointOptions } from './tcp/endpoint.ts'
export { nodeFacts, type AddonFacts, type NodeFacts } from './node-facts.ts'
