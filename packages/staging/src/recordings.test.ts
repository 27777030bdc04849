import { tensorTable, type Manifest, type Recording, type RecordingSession } from '@ckpt/contract'
import { describe, expect, it } from 'vitest'
import { Recordings } from './recordings.ts'

function manifestOf(...names: string[]): Manifest {
  const tensors = names.map((name, i) => ({ name, dtype: 'F32' as const, shape: [4], bytes: 16, segment: 0, offset: 16 * i }))
  const segments = [{ bytes: 16 * names.length, kind: 'anonymous' as const }]
  const own = { rank: 0, host: 'h', deviceUuid: 'd', digest: 'r', segments, tensors: tensorTable(tensors) }
  return { checkpoint: 'c', digest: names.join(), ranks: [own] }
}

function recordingOf(...names: string[]): Recording {
  const tensors = names.map((name) => ({ name, dtype: 'F32' as const, shape: [4] }))
  return { id: 'w', tensors, storages: [], parameters: [], routes: [], opaque: [] }
}

describe('a recording', () => {
  it.each<[string, Manifest, Recording, string | undefined]>([
    ['is used for a checkpoint of the tensors that it saw', manifestOf('a', 'b'), recordingOf('b', 'a'), undefined],
    ['is not used where it saw a tensor that the checkpoint lacks', manifestOf('a'), recordingOf('a', 'b'), 'lacks tensor b'],
    // What the worker keeps of it would never be read back, and the update would still count as verified.
    [
      'is not used where the checkpoint has a tensor that it never saw',
      manifestOf('a', 'b'),
      recordingOf('a'),
      'tensor b was not',
    ],
  ])('%s', (_, manifest, recording, reason) => {
    const said = new Recordings().learn(recording, manifest)
    if (reason === undefined) expect(said).toBeUndefined()
    else expect(said).toContain(reason)
  })
})

describe('a worker whose recordings cannot be used', () => {
  const greeting = (pid: number) => ({ protocol: 3, state: undefined, routes: undefined, process: { pid, mark: 'm' } })
  const recorded = (times: number, pid = 1) => {
    const recordings = new Recordings()
    for (let i = 0; i < times; i++) recordings.countRecording(greeting(pid), 'w.0 changed')
    return recordings
  }

  it('is recorded three times, and not again until it restarts', () => {
    expect(recorded(2).reasonNotToRecord(greeting(1))).toBeUndefined()
    const recordings = recorded(3)
    expect(recordings.reasonNotToRecord(greeting(1))).toMatch(/recorded 3 times in vain \(w\.0 changed\)/)
    expect(recordings.reasonNotToRecord(greeting(2))).toBeUndefined()
    recordings.countRecording(greeting(2), 'w.0 changed')
    expect(recordings.reasonNotToRecord(greeting(2))).toBeUndefined()
  })

  it('counts from the last recording that was used', () => {
    const recordings = recorded(2)
    recordings.countUse()
    recordings.countRecording(greeting(1), '')
    expect(recordings.reasonNotToRecord(greeting(1))).toBeUndefined()
  })
})

describe('a worker that cannot rehearse', () => {
  const greeting = (pid: number) => ({ protocol: 3, state: undefined, routes: undefined, process: { pid, mark: 'm' } })
  const manifest = manifestOf('a')

  /** A worker that gives these answers, and how often it was asked. */
  function asked(...answers: readonly (Recording | string)[]) {
    const recordings = new Recordings()
    let count = 0
    const session = { rehearse: () => Promise.resolve(answers[count++]!) } as unknown as RecordingSession
    const ask = (pid: number, layout = 'l') => recordings.rehearse(session, greeting(pid), manifest, layout)
    return { recordings, ask, count: () => count }
  }

  it('is asked again about another layout, and after a restart', async () => {
    const { ask, count } = asked('reads values', 'reads values', recordingOf('a'))
    for (const layout of ['l', 'l', 'm', 'm']) expect(await ask(1, layout)).toBe('reads values')
    expect(count()).toBe(2)
    expect(await ask(2, 'm')).toEqual(recordingOf('a'))
  })

  it('or whose rehearsal wrote wrong bytes, is not trusted until it restarts', async () => {
    const rehearsed = { ...recordingOf('a'), rehearsed: true }
    const { recordings, ask, count } = asked(rehearsed, rehearsed)
    await ask(1)
    recordings.distrust(rehearsed)
    expect(await ask(1, 'm')).toMatch('wrote wrong bytes')
    expect(count()).toBe(1)
    expect(await ask(2)).toEqual(rehearsed)
  })
})
