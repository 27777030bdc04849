import { CkptError } from '@ckpt/contract'
import { createCudaDevice, probeCuda, type CudaDevice } from '@ckpt/core'
import { Option, type Command } from 'commander'
import type { EngineChoice } from './engine-kinds.ts'
import { ownPlace } from './place.ts'

export type DeviceChoice = 'auto' | 'cuda' | 'host'

/** Adds the option that selects the device. */
export function addDeviceOption(command: Command): Command {
  return command.addOption(
    new Option(
      '--device <kind>',
      "device that holds the engine's parameters: cuda (a rank uses GPU LOCAL_RANK), host, or auto: cuda if there is a GPU for every rank of this machine (control sockets: host)",
    )
      .choices(['auto', 'cuda', 'host'])
      .default('auto'),
  )
}

/** Opens this rank's GPU; undefined for the host device. @throws CkptError naming the option and why there is no such GPU. */
export async function openDevice(
  choice: DeviceChoice,
  engine: EngineChoice['kind'] | undefined,
): Promise<CudaDevice | undefined> {
  if (choice === 'host' || (choice === 'auto' && engine === 'control')) return undefined
  const { rank, localRank, localWorldSize } = ownPlace()
  const { devices } = await probeCuda().catch(() => ({ devices: [] }))
  // Launchers may show each rank only its own GPU.
  const isBound = devices.length === 1 && process.env['CUDA_VISIBLE_DEVICES'] !== undefined
  if (choice === 'auto' && devices.length < localWorldSize && !isBound) return undefined
  try {
    return await createCudaDevice({ index: isBound ? 0 : localRank })
  } catch (error) {
    const { code, message } = CkptError.from(error, 'ADDON_UNAVAILABLE')
    throw new CkptError(code, `--device cuda: rank ${rank} needs GPU ${localRank}: ${message}`, { fields: { field: 'device' } })
  }
}
