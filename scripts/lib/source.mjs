import { createRequire } from 'node:module'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT } from './root.mjs'

/** Arguments with which Node runs one of the repository's programs from the sources themselves, so that no stale build can run. */
export function sourceArguments(program) {
  const tsx = pathToFileURL(createRequire(join(ROOT, 'package.json')).resolve('tsx')).href
  return ['--import', tsx, '--conditions=@ckpt/source', join(ROOT, program)]
}
