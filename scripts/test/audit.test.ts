import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { audit, auditResult } from '../release/audit.ts'
import { fixture } from './fixture.ts'

const report = (vulnerabilities: object) =>
  JSON.stringify({ auditReportVersion: 2, vulnerabilities, metadata: { vulnerabilities: {}, dependencies: { total: 90 } } })

describe('what a release says of known vulnerabilities', () => {
  it('counts low ones, and fails for high and critical ones by name', () => {
    const low = { a: { name: 'a', severity: 'moderate', range: '<2' } }
    expect(auditResult(report({}))).toBe('0 vulnerabilities below high in 90 packages')
    expect(auditResult(report(low))).toBe('1 vulnerabilities below high in 90 packages')
    for (const severity of ['high', 'critical']) {
      expect(() => auditResult(report({ ...low, b: { name: 'b', severity, range: '<=1.0.3' } }))).toThrow(
        `b <=1.0.3: ${severity}`,
      )
    }
  })

  it.each([
    [
      'a registry without the endpoint',
      '{"message":"404 Not Found","error":{"summary":"no audit here","code":"E404"}}',
      '404 Not Found',
    ],
    ['no registry', '{"error":{"code":"ECONNREFUSED","summary":"","detail":""}}', ''],
    ['a page instead of an answer', '<html>Bad gateway</html>', '<html>'],
    ['nothing', '', ''],
    ['half an answer', '{"auditReportVersion":2,"vulnerabilities":{', ''],
    ['an answer without counts', '{"vulnerabilities":{}}', ''],
  ])('says that nothing was looked for where there is %s', (_, output, why) => {
    const { skipped } = auditResult(output) as { skipped: string }
    expect(skipped).toContain('the registry does not tell known vulnerabilities, so none were looked for')
    expect(skipped).toContain(why)
  })

  it('asks the registry, and says so where it cannot be reached', async () => {
    const dependencies = { commander: '12.1.0' }
    const project = { name: 'empty', version: '1.0.0' }
    using files = fixture({
      'package.json': JSON.stringify({ ...project, dependencies }),
      'package-lock.json': JSON.stringify({
        ...project,
        lockfileVersion: 3,
        packages: { '': { ...project, dependencies }, 'node_modules/commander': { version: '12.1.0' } },
      }),
    })
    vi.stubEnv('npm_config_registry', 'http://127.0.0.1:9/')
    onTestFinished(() => void vi.unstubAllEnvs())
    const { skipped } = (await audit(files.path)) as { skipped: string }
    expect(skipped).toMatch(/127\.0\.0\.1:9|ECONNREFUSED/)
  })
})
