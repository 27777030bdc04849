// Runs when the published package is installed.
import { buildWhereMissing } from '@ckpt/native-common/build'
import { findAddon } from './index.mjs'

buildWhereMissing(import.meta.url, '@ckpt/native-host', findAddon)
