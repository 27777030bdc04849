import { examinePeers } from '@ckpt/core'
import { Option, type Command } from 'commander'
import { examine, lacking } from '../doctor/doctor.ts'
import { renderPeers, renderPeersJson } from '../doctor/peers.ts'
import { renderJson, renderText } from '../doctor/render.ts'
import { interruptible } from '../interrupt.ts'
import { printWaiting } from '../output.ts'
import { parseCount } from '../sizes.ts'

interface DoctorOptions {
  readonly json?: boolean
  readonly require: string[]
  readonly python: string
  readonly peers?: boolean
  readonly timeout: number
}

/** Adds `ckpt doctor`. */
export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('print what this node has, what it lacks, and remedies; fails if something required is missing')
    .option('--json', 'print JSON')
    .option('--require <id...>', 'also require these, such as gpus, nccl, rdma or python', [])
    .option('--python <interpreter>', 'Python interpreter to inspect', process.env['CKPT_PYTHON'] ?? 'python3')
    .option(
      '--peers',
      'instead compare the machines, namespaces and /dev/shm of all ranks; start it like the ranks (`ckpt launch`, torchrun, Slurm); rank 0 prints',
    )
    .addOption(new Option('--timeout <seconds>', 'with --peers: deadline of every wait').argParser(parseCount(1)).default(60))
    .action(async ({ json, require, python, peers, timeout }: DoctorOptions) => {
      if (peers) {
        await interruptible(async (signal) => {
          const found = await examinePeers({ onWaiting: printWaiting }, { timeoutMs: timeout * 1000, signal })
          if (found.rank === 0) process.stdout.write(json ? renderPeersJson(found) : renderPeers(found))
        })
        return
      }
      const sections = await examine({ python, environment: process.env, script: process.argv[1]! })
      const lacks = lacking(sections, require)
      process.stdout.write(json ? renderJson(sections, lacks) : renderText(sections, lacks))
      if (lacks.length > 0) process.exitCode = 1
    })
}
