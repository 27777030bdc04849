import { experimental_getRunnerTask, JUnitReporter, type TestModule } from 'vitest/node'

/** vitest's JUnit, and in it the reason that a test gave for its skip: a property `skipped`. */
export class JUnitWithReasons extends JUnitReporter {
  override async onTestRunEnd(modules: readonly TestModule[]): Promise<void> {
    for (const test of modules.flatMap((module) => [...module.children.allTests('skipped')])) {
      const result = test.result()
      const message = result.state === 'skipped' ? result.note : undefined
      if (message !== undefined) experimental_getRunnerTask(test).annotations.push({ type: 'skipped', message })
    }
    await super.onTestRunEnd(modules)
  }
}
