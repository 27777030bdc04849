import { expect, it } from 'vitest'

import { BlobStore } from './blobs.ts'

const payload = Uint8Array.of(1)

it('holds the latest payload of each rank and key, and nothing else', () => {
  const store = new BlobStore()
  for (let step = 0; step < 100; step++) for (const rank of [0, 1]) store.put('metas', rank, `${rank}-${step}`, payload)
  expect(store.size).toBe(2)
  expect(store.get('0-98')).toBeUndefined()
  expect(store.get('0-99')).toBe(payload)
  store.put('other', 0, '0-99', payload)
  store.put('metas', 0, 'new', payload)
  expect(store.get('0-99')).toBe(payload)
})

it('forgets the keys that were used least recently', () => {
  const store = new BlobStore()
  store.put('kept', 0, 'kept', payload)
  for (let key = 0; key < 100; key++) {
    store.put(`step-${key}`, 0, `${key}`, payload)
    store.put('kept', 0, 'kept', payload)
  }
  expect(store.size).toBe(16)
  expect(store.get('kept')).toBe(payload)
  expect(store.get('99')).toBe(payload)
  expect(store.get('50')).toBeUndefined()
})

it('keeps what was replaced for as long as somebody may ask for it', async () => {
  const store = new BlobStore(20)
  store.put('k', 0, 'old', payload)
  store.put('k', 0, 'new', payload)
  store.sweep()
  expect(store.get('old')).toBe(payload)
  await new Promise((resolve) => setTimeout(resolve, 30))
  store.sweep()
  expect(store.get('old')).toBeUndefined()
  expect(store.get('new')).toBe(payload)
})
