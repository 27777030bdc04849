import type { Command } from 'commander'
import { z } from 'zod'
import { checkConfig } from '../config/apply-config.ts'
import { readConfigFile, CONFIG_NAME } from '../config/config-file.ts'
import { configSchema } from '../config/config-schema.ts'
import { UsageError } from '../usage.ts'

/** Adds `ckpt config`. */
export function addConfig(program: Command): void {
  program
    .command('config')
    .description(`print the JSON Schema of ${CONFIG_NAME}, which editors can use, or check a file`)
    .option('--check [file]', `check this file (default: ${CONFIG_NAME}) instead`)
    .action(({ check }: { readonly check?: string | true }) => {
      if (check === undefined) {
        const schema = z.toJSONSchema(configSchema(program), { io: 'input' })
        process.stdout.write(`${JSON.stringify({ title: CONFIG_NAME, ...schema }, undefined, 2)}\n`)
        return
      }
      const file = readConfigFile(check === true ? undefined : check)
      if (file === undefined) throw new UsageError(`--check: there is no ${CONFIG_NAME} here; expected a file`)
      checkConfig(program, file)
      process.stdout.write(`${file.path}: no mistakes\n`)
    })
}
