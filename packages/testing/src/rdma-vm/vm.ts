import { spawn } from 'node:child_process'
import { programPath } from './needs.ts'

/** A guest that can be booted. */
export interface VmFiles {
  readonly kernel: string
  readonly initrd: string
}

export interface VmOptions {
  readonly files: VmFiles
  /** Folder that the guest sees as /job. */
  readonly job: string
  /** Name, without `.sh`, of the file there that the guest runs. */
  readonly script: string
  readonly cores: number
  readonly memoryMiB: number
  /** A wire to another VM: sockets of this side and the other. */
  readonly wire?: { readonly local: string; readonly remote: string; readonly mac: string }
  readonly timeoutMs: number
  /** Called with every line that the guest prints. */
  readonly onLine: (line: string) => void
}

/** Space for a 4096-byte RoCE packet and its headers. */
export const WIRE_MTU = 4300

/** Printed by the guest's first program. */
const BOOTED = 'ckpt: booted'

/**
 * Booting takes seconds; emulation of several cores hangs in its firmware or early kernel once in some hundred boots, before
 * any of our code runs.
 */
const BOOT_TIMEOUT_MS = 90_000
const BOOTS = 3

/**
 * Boots a guest and runs its job to the end. A guest that hangs while it boots is booted again, which is reported as a line.
 *
 * @returns the job's exit code
 * @throws Error if the guest crashed, did not boot, or did not end in time.
 */
export async function runVm(options: VmOptions): Promise<number> {
  for (let boot = 1; ; boot++) {
    const code = await bootOnce(options)
    if (code !== 'hung') return code
    const hung = `the guest did not boot within ${BOOT_TIMEOUT_MS / 1000} s`
    if (boot === BOOTS) throw new Error(`${hung}, ${BOOTS} times`)
    options.onLine(`NOTE ${hung}; booting it again`)
  }
}

function bootOnce(options: VmOptions): Promise<number | 'hung'> {
  const child = spawn(programPath('qemu-system-x86_64')!, flags(options), { stdio: ['ignore', 'pipe', 'pipe'] })
  let tail = ''
  let rest = ''
  let hung = false
  const read = (text: string): void => {
    const lines = (rest + text).split(/\r?\n/)
    rest = lines.pop()!
    for (const line of lines) {
      tail = `${tail}${line}\n`.slice(-6000)
      if (line === BOOTED) clearTimeout(bootTimer)
      else options.onLine(line)
    }
  }
  child.stdout.setEncoding('utf8').on('data', read)
  child.stderr.setEncoding('utf8').on('data', read)
  // A stopped test run must not leave its machine running.
  const stop = (): void => void child.kill('SIGKILL')
  process.on('exit', stop)
  const bootTimer = setTimeout(() => {
    hung = true
    stop()
  }, BOOT_TIMEOUT_MS)
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      tail += `the VM was ended after ${options.timeoutMs / 1000} s\n`
      stop()
    }, options.timeoutMs)
    const ended = (): void => {
      clearTimeout(timer)
      clearTimeout(bootTimer)
      process.off('exit', stop)
    }
    child.on('error', (error) => {
      ended()
      reject(error)
    })
    child.on('close', (status) => {
      ended()
      if (hung) resolve('hung')
      // isa-debug-exit turns the guest's code into 2 * code + 1; anything else is a crash of the guest or of qemu.
      else if (status !== null && status % 2 === 1) resolve((status - 1) / 2)
      else reject(new Error(`the VM ended with status ${status}; its last lines:\n${tail}${rest}`))
    })
  })
}

function flags({ files, job, script, cores, memoryMiB, wire }: VmOptions): string[] {
  const share = (id: string, path: string, readonly: boolean): string[] => [
    ...['-fsdev', `local,id=${id},path=${path},security_model=none${readonly ? ',readonly=on' : ''}`],
    ...['-device', `virtio-9p-pci,fsdev=${id},mount_tag=${id}`],
  ]
  return [
    // Emulation on purpose: it runs everywhere, and /dev/kvm may exist without being usable.
    ...['-M', 'pc', '-accel', 'tcg,thread=multi', '-cpu', 'Nehalem', '-m', `${memoryMiB}M`, '-smp', String(cores)],
    ...['-nodefaults', '-nographic', '-no-reboot', '-serial', 'stdio', '-kernel', files.kernel, '-initrd', files.initrd],
    ...['-append', `console=ttyS0 quiet panic=-1 mitigations=off ckpt.script=${script}`],
    ...['-device', 'isa-debug-exit,iobase=0xf4,iosize=4'],
    ...share('host_usr', '/usr', true),
    ...share('job', job, false),
    ...(wire === undefined
      ? []
      : [
          '-netdev',
          `dgram,id=wire,local.type=unix,local.path=${wire.local},remote.type=unix,remote.path=${wire.remote}`,
          '-device',
          `virtio-net-pci,netdev=wire,romfile=,host_mtu=${WIRE_MTU},mac=${wire.mac}`,
        ]),
  ]
}
