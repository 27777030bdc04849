// Lists this machine's RDMA devices: node examples/devices.mjs
import { probeRdma } from '@ckpt/rdma-core-bindings'

const { available, problem, path, devices } = await probeRdma()
console.log(available ? `libibverbs: ${path}` : `no RDMA: ${problem}`)
for (const { name, pciBusId, numaNode, ports, problem: fault } of devices) {
  console.log(`${name} (${pciBusId ?? 'no PCI device'}, NUMA node ${numaNode})${fault === undefined ? '' : `: ${fault}`}`)
  for (const { port, state, linkLayer, gigabitsPerSecond, activeMtu, gids } of ports) {
    console.log(`  port ${port}: ${state}, ${linkLayer}, ${gigabitsPerSecond} Gb/s, MTU ${activeMtu}`)
    for (const { index, gid, type, interface: name } of gids)
      console.log(`    GID ${index}: ${gid} ${type ?? ''} ${name ?? ''}`)
  }
}
