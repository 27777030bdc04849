import { packageBuild } from '../../tsup.base.ts'

export default packageBuild({
  entry: { index: 'src/index.ts', 'worker-protocol/index': 'src/worker-protocol/index.ts', 'http/index': 'src/http/index.ts' },
})
