import { packageBuild } from '../../tsup.base.ts'

export default packageBuild({
  entry: { index: 'src/index.ts', 'protocol/index': 'src/protocol/index.ts' },
})
