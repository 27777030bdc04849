import { packageBuild } from '../../tsup.base.ts'

export default packageBuild({ entry: ['src/main.ts'], dts: false, banner: { js: '#!/usr/bin/env node' } })
