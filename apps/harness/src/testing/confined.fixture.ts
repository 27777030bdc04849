import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, rmdirSync } from 'node:fs'

/** Output of a program, and its end. */
export interface Ended {
  readonly status: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** Starts `argv[3:]` under a filter that answers the system call `argv[1]` (x86-64's number) with the error number `argv[2]`. */
const FILTER = `
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
call, error = int(sys.argv[1]), int(sys.argv[2])
row = lambda code, yes, no, value: struct.pack("HBBI", code, yes, no, value)
program = ctypes.create_string_buffer(
    row(0x20, 0, 0, 0) + row(0x15, 0, 1, call) + row(0x06, 0, 0, 0x50000 | error) + row(0x06, 0, 0, 0x7FFF0000)
)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rows", ctypes.c_void_p)]
if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.byref(Program(4, ctypes.addressof(program))), 0, 0) != 0:
    sys.exit("no filter: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[3], sys.argv[3:])
`

/** Runs a JavaScript program in which a system call fails, as under a container's filter. */
export function refusing(call: number, error: number, program: string): Ended {
  const node = [process.execPath, '--input-type=module', '-e', program]
  return spawnSync('python3', ['-c', FILTER, String(call), String(error), ...node], { encoding: 'utf8', timeout: 60_000 })
}

/**
 * Runs a JavaScript program in a new control group, whose directory is in `process.env.GROUP`; returns a text with the reason
 * if there is none. The group must have `file`.
 */
export function grouped(controller: string, file: string, program: string): Ended | string {
  const parent = [`/sys/fs/cgroup/${controller}`, '/sys/fs/cgroup'].find((path) => existsSync(`${path}/cgroup.procs`))
  if (parent === undefined) return 'no control groups are mounted'
  const directory = `${parent}/ckpt-test-${process.pid}-${controller}`
  try {
    mkdirSync(directory)
    if (!existsSync(`${directory}/${file}`)) return `${directory} has no ${file}`
    const inside = `echo $$ > "$0/cgroup.procs" && exec "$@"`
    const node = [process.execPath, '--input-type=module', '-e', program]
    return spawnSync('sh', ['-c', inside, directory, ...node], {
      encoding: 'utf8',
      timeout: 60_000,
      env: { ...process.env, GROUP: directory },
    })
  } catch (error) {
    return `no control group can be made: ${String(error)}`
  } finally {
    if (existsSync(directory)) rmdirSync(directory)
  }
}
