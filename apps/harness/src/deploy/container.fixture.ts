import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'

/** What a container gets from the last stage of a Containerfile. */
export interface ImageSettings {
  readonly env: Readonly<Record<string, string>>
  readonly user: number
  readonly group: number
  readonly workingDirectory: string
  readonly entrypoint: readonly string[]
  readonly command: readonly string[]
  /** `npm run …` lines of the earlier stages. */
  readonly builds: readonly string[]
}

/** Reads the settings of a Containerfile. @throws Error if one is missing. */
export function imageSettings(file: string): ImageSettings {
  const lines = readFileSync(file, 'utf8').replace(/\\\n/g, ' ').split('\n')
  const last = lines.findLastIndex((line) => line.startsWith('FROM '))
  const values = (name: string, within: readonly string[]) =>
    within.flatMap((line) => (line.startsWith(`${name} `) ? [line.slice(name.length + 1).trim()] : []))
  const one = (name: string) => {
    const found = values(name, lines.slice(last)).at(-1)
    if (found === undefined) throw new Error(`${file}: no ${name} in the last stage`)
    return found
  }
  const [user, group] = one('USER').split(':').map(Number)
  const env = Object.fromEntries(
    one('ENV')
      .split(' ')
      .map((pair) => pair.split('=') as [string, string]),
  )
  return {
    ...{ env, user: user!, group: group!, workingDirectory: one('WORKDIR') },
    entrypoint: JSON.parse(one('ENTRYPOINT')) as string[],
    command: JSON.parse(one('CMD')) as string[],
    builds: values('RUN', lines.slice(0, last)).filter((line) => line.startsWith('npm run ')),
  }
}

/**
 * Makes a root of read-only mounts, with a /dev, /dev/shm, /tmp and runtime directory of its own, and runs a program there. This
 * machine's /usr stands for the base image's.
 */
const SCRIPT = `set -eu
root=$1 opt=$2 models=$3 shm=$4 uid=$5 gid=$6 directory=$7
shift 7
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc proc dev/shm tmp run/ckpt opt/ckpt models
for one in bin sbin lib lib32 lib64; do
  if [ -L /$one ]; then cp -P /$one .; elif [ -d /$one ]; then mkdir $one && mount --rbind /$one $one; fi
done
mount --bind /usr usr
mount --bind /etc etc
mount --bind "$opt" opt/ckpt
mount --bind "$models" models
mount -t proc proc proc
for one in null zero full random urandom; do : > dev/$one; mount --bind /dev/$one dev/$one; done
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o size="$shm",mode=1777 tmpfs dev/shm
mount -t tmpfs -o size=16m,mode=1777 tmpfs tmp
mount -t tmpfs -o size=16m,mode=700,uid="$uid",gid="$gid" tmpfs run/ckpt
for one in usr etc opt/ckpt models; do mount -o remount,bind,ro,nosuid $one; done
mount -o remount,ro "$root"
exec unshare --root="$root" --wd="$directory" setpriv --reuid "$uid" --regid "$gid" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
`
const NAMESPACES = ['--mount', '--pid', '--fork', '--ipc', '--uts', '--kill-child']

/** Reason why no container can run here; undefined if one can. */
export function noContainer(): string | undefined {
  if (process.getuid?.() !== 0) return 'only root can make the mounts'
  if (!existsSync('/usr/bin/tini')) return 'tini is missing; apt-get install tini'
  const probe = spawnSync('unshare', [...NAMESPACES, 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], { encoding: 'utf8' })
  return probe.status === 0 ? undefined : `no namespaces: ${probe.error?.message ?? probe.stderr.trim()}`
}

/** Mounts of a container. */
export interface ContainerMounts {
  /** Empty directory, where the root is made. */
  readonly root: string
  /** Contents of /opt/ckpt, and of /models. */
  readonly opt: string
  readonly models: string
  /** Size of /dev/shm, as mount's `size=`. */
  readonly shm: string
}

/** Runs a program in a container: as the image's user, with a read-only root and without capabilities. */
export function runContained(image: ImageSettings, mounts: ContainerMounts, program: readonly string[]) {
  const { root, opt, models, shm } = mounts
  const args = [root, opt, models, shm, String(image.user), String(image.group), image.workingDirectory, ...program]
  return spawnSync('unshare', [...NAMESPACES, 'sh', '-c', SCRIPT, 'container', ...args], {
    ...{ encoding: 'utf8', timeout: 120_000, env: image.env, maxBuffer: 2 ** 26 },
  })
}
