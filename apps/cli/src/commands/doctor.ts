import type { Command } from 'commander'
import { examine, lacking } from '../doctor/doctor.ts'
import { renderJson, renderText } from '../doctor/render.ts'

interface DoctorOptions {
  readonly json?: boolean
  readonly require: string[]
  readonly python: string
}

/** Adds `ckpt doctor`. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('print what this node has, what it lacks, and remedies; fails if something required is missing')
    .option('--json', 'print JSON')
    .option('--require <id...>', 'also require these, such as gpus, nccl, rdma or python', [])
    .option('--python <interpreter>', 'Python interpreter to inspect', process.env['CKPT_PYTHON'] ?? 'python3')
    .action(async ({ json, require, python }: DoctorOptions) => {
      const sections = await examine({ python, environment: process.env, script: process.argv[1]! })
      const lacks = lacking(sections, require)
      process.stdout.write(json ? renderJson(sections, lacks) : renderText(sections, lacks))
      if (lacks.length > 0) process.exitCode = 1
    })
}
