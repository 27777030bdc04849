import { describe, expect, it } from 'vitest'
import {
  advertisedAddresses,
  hostOf,
  interfaceAddresses,
  isLoopbackHost,
  listeningAddresses,
  type Interfaces,
} from './addresses.ts'

const one = (address: string, internal = false) =>
  ({
    address,
    internal,
    family: address.includes(':') ? 'IPv6' : 'IPv4',
    netmask: '',
    mac: '',
    cidr: null,
    scopeid: 0,
  }) as never
const machine: Interfaces = {
  lo: [one('127.0.0.1', true), one('::1', true)],
  eth0: [one('fe80::1'), one('2001:db8::10'), one('198.18.0.1')],
  eth1: [one('198.18.1.1')],
  ib0: [one('fe80::2'), one('2001:db8::20')],
  docker0: [one('172.17.0.1')],
  down0: [one('fe80::3')],
}

describe('interfaces', () => {
  it.for([
    ['eth', ['198.18.0.1', '198.18.1.1']],
    ['=eth1', ['198.18.1.1']],
    ['eth1, ib', ['198.18.1.1', '2001:db8::20']],
    ['^eth', ['2001:db8::20']],
    ['^=eth0,ib0', ['198.18.1.1']],
    ['docker', ['172.17.0.1']],
    ['lo', ['127.0.0.1']],
  ] as const)('are selected by %s, one address of each', ([names, addresses]) => {
    expect(interfaceAddresses(names, machine)).toEqual(addresses)
  })

  it.each(['=eth', 'wlan', 'down0', ','])('are named if %s selects none with an address', (names) => {
    expect(() => interfaceAddresses(names, machine)).toThrow(
      expect.objectContaining({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(/CKPT_INTERFACE=.*eth1 \(198\.18\.1\.1\).*down0 \(no usable address\)/) as unknown,
      }) as Error,
    )
  })
})

describe('listening addresses', () => {
  it('are of the loopback interface only if the ranks meet there', async () => {
    for (const meetingPoint of ['tcp://127.0.0.1:0', 'tcp://127.0.0.1:29500', 'tcp://localhost:1', undefined]) {
      const [address] = await listeningAddresses({ meetingPoint })
      expect(isLoopbackHost(address!), meetingPoint).toBe(true)
    }
  })

  it('that are given come before interfaces, and interfaces before the meeting point', async () => {
    const meetingPoint = 'tcp://no-such-name.invalid:1'
    expect(await listeningAddresses({ listen: ['198.18.0.9:7'], interface: 'lo', meetingPoint })).toEqual(['198.18.0.9:7'])
    expect(hostOf((await listeningAddresses({ interface: 'lo', meetingPoint }))[0]!)).toMatch(/^(127\.0\.0\.1|::1)$/)
  })

  it('of names that cannot be resolved are refused, with the name', async () => {
    for (const choice of [{ listen: ['no-such-name.invalid:7'] }, { meetingPoint: 'tcp://no-such-name.invalid:1' }]) {
      await expect(listeningAddresses(choice)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        message: expect.stringMatching(/the name no-such-name\.invalid.* cannot be resolved/) as unknown,
      })
    }
  })

  it('of all interfaces are never advertised', async () => {
    expect(await advertisedAddresses(['198.18.0.1:5', '[::1]:6'])).toBeUndefined()
    const advertised = await advertisedAddresses(['0.0.0.0:5', '198.18.0.1:6', '[::]:7', '*'])
    expect(advertised?.[1]).toBe('198.18.0.1:6')
    expect(advertised!.map((address) => address.slice(address.lastIndexOf(':') + 1))).toEqual(['5', '6', '7', '0'])
    for (const address of advertised!) expect(['0.0.0.0', '::', '*']).not.toContain(hostOf(address))
  })
})
