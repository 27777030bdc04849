import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { VARIABLES, refuseServiceLinks, serviceLink } from './environment.ts'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))

/** What Kubernetes sets for a service of this name at this address (its documentation, "Discovering services"). */
function serviceVariables(service: string, host: string, port: number, protocol = 'tcp'): Record<string, string> {
  const name = service.toUpperCase().replaceAll('-', '_')
  const url = `${protocol}://${host}:${port}`
  const long = `${name}_PORT_${port}_${protocol.toUpperCase()}`
  return {
    [`${name}_SERVICE_HOST`]: host,
    [`${name}_SERVICE_PORT`]: String(port),
    [`${name}_PORT`]: url,
    [long]: url,
    [`${long}_PROTO`]: protocol,
    [`${long}_PORT`]: String(port),
    [`${long}_ADDR`]: host,
  }
}

describe('variables that Kubernetes sets', () => {
  it.each(VARIABLES)('%s is refused by name, with the remedy, whatever the service', (name) => {
    for (const url of ['tcp://10.0.0.1:9', 'udp://10.96.12.250:53', 'sctp://[fd00::1]:443', 'TCP://h:1']) {
      expect(() => refuseServiceLinks({ PATH: '/bin', [name]: url })).toThrow(
        expect.objectContaining({
          code: 'INVALID_ARGUMENT',
          fields: { field: name },
          message: expect.stringMatching(new RegExp(`${name}=.*enableServiceLinks: false`)) as string,
        }),
      )
      // What was given otherwise is not read.
      expect(() =>
        refuseServiceLinks(
          { [name]: url },
          VARIABLES.filter((other) => other !== name),
        ),
      ).not.toThrow()
    }
  })

  it('of services that are called as ours never stand for our own', () => {
    for (const service of ['ckpt', 'ckpt-metrics', 'ckpt-p2p', 'master', 'rank', 'ckpt-http']) {
      const set = serviceVariables(service, '10.0.0.1', 9400)
      const ours = VARIABLES.filter((name) => set[name] !== undefined)
      for (const name of ours) expect(serviceLink(name, set[name])).toContain(`service "${service}"`)
      if (ours.length === 0) expect(() => refuseServiceLinks(set)).not.toThrow()
    }
  })

  it('are not seen in what people set', () => {
    for (const value of ['9400', '10.0.0.1', '0.0.0.0:1,[::1]:2', 'tcp', 'a:b', '', '/run/tcp://x'])
      expect(serviceLink('CKPT_METRICS_PORT', value)).toBeUndefined()
  })
})

it('every variable that sources read is in the list', () => {
  /** Of builds, tests and benchmarks; or no variable at all. */
  const others =
    /^CKPT_(?:AEGIS_|AVX|BENCH_|BUILT_|FIND|CHECK_|FUZZ|FAULTS_|GPU_|SANITIZE|SGLANG|VLLM_|TORCH_|ENGINE_(?:ONLY|SHARE|TESTS)|MEMBER|NAME|PRINT|DECLARE|RESOLVE|RESULTS|READ_BYTES|P2P_BYTES|KERNELS_IMAGE|LIVE_PICTURE|QUIET|SKIP_BUILD|SOAK_|BROWSER|PICTURES|\w+_FUNCTIONS)/
  const found = new Set<string>()
  const visit = (directory: string): void => {
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name)
      if (entry.isDirectory()) {
        if (!/^(?:node_modules|dist|build|test|tests|harness|bench|\..*)$/.test(entry.name)) visit(path)
      } else if (/(?<!\.(?:test|fixture|fuzz))\.(?:ts|py|cc|h)$/.test(entry.name) && entry.name !== 'environment.ts') {
        for (const [name] of readFileSync(path, 'utf8').matchAll(/\bCKPT_[A-Z0-9_]*[A-Z0-9]\b/g)) found.add(name)
      }
    }
  }
  for (const directory of ['packages', 'native', 'apps']) visit(join(ROOT, directory))
  const known: readonly string[] = VARIABLES
  expect(found.size).toBeGreaterThan(10)
  expect([...found].filter((name) => !others.test(name) && !known.includes(name))).toEqual([])
})
