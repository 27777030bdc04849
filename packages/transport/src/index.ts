/**
 * Devices and collectives over the native addons, and the host memory services they share.
 *
 * @packageDocumentation
 */
export { createHost } from './host/host.ts'
export { createHostDevice, type HostDeviceOptions } from './host/device.ts'
export { bootId, Presence, type Beacon } from './host/presence.ts'
export { removeStaleRings } from './host/ring.ts'
export { removeAtEnd } from './leftovers.ts'
export { probeCuda } from './cuda/addon.ts'
export { createCudaDevice, type CudaDevice, type CudaDeviceOptions } from './cuda/device.ts'
export type { CudaDeviceInfo, CudaLibrary, CudaProbe } from '@ckpt/native-cuda'
export { createTcpEndpoint, type TcpEndpoint, type TcpEndpointOptions } from './tcp/endpoint.ts'
export type { TcpPeer } from './tcp/peer.ts'
export type { TcpProtection } from './tcp/protection.ts'
export { nodeFacts, type AddonFacts, type HostLimits, type NodeFacts, type UcxFacts } from './node-facts.ts'
export { createRdmaEndpoint, type RdmaOneSided } from './rdma/endpoint.ts'
export type { RdmaEndpointOptions } from './rdma/options.ts'
export { chooseNics, nicName, type ChoiceSource, type RdmaChoice, type RdmaNic } from './rdma/choose.ts'
export { assignNics, nearness, type Nearness, type Place } from './rdma/assign.ts'
export { placeOf, probeRdma } from './rdma/probe.ts'
export { createUcxEndpoint, endsProcesses, probeUcx, type UcxEndpointOptions, type UcxOneSided } from './ucx/endpoint.ts'
export type { UcxPeer } from './ucx/peer.ts'
export type { RdmaDeviceInfo, RdmaGid, RdmaPort, RdmaProbe } from '@ckpt/rdma-core-bindings'
export type { UcxProbe } from '@ckpt/native-ucx'
