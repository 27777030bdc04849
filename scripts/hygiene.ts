/** What no linter looks at: the files of the repository, whatever their language, and the changesets. */
import getReleasePlan from '@changesets/get-release-plan'
import { hygieneProblems } from './lib/hygiene.ts'
import { ROOT } from './lib/root.mjs'

// Throws where a changeset cannot be read, or names a package that does not exist or is not released.
await getReleasePlan(ROOT)
const problems = hygieneProblems()
for (const problem of problems) process.stderr.write(`${problem}\n`)
process.exitCode = problems.length > 0 ? 1 : 0
