// @ts-check
import js from '@eslint/js'
import globals from 'globals'
import tseslint from 'typescript-eslint'

export default tseslint.config(
  {
    ignores: [
      '**/node_modules/',
      '**/dist/',
      '**/build/',
      '**/.turbo/',
      '.venv/',
      '.cache/',
      'out/',
      'bundle/',
      'wheels/',
      '**/.*/',
    ],
  },
  { linterOptions: { reportUnusedDisableDirectives: 'error' } },
  js.configs.recommended,
  { rules: { 'max-lines': ['error', 400] } },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/consistent-type-imports': ['error', { fixStyle: 'inline-type-imports' }],
      '@typescript-eslint/no-import-type-side-effects': 'error',
      '@typescript-eslint/switch-exhaustiveness-check': ['error', { considerDefaultExhaustiveForUnions: true }],
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      // Typed arrays under noUncheckedIndexedAccess need `!`; a check on every element of a plan would cost more than it finds.
      '@typescript-eslint/no-non-null-assertion': 'off',
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        {
          allowNumber: true,
          allowBoolean: true,
          allowNullish: true,
          allowArray: true,
          allow: [{ name: ['URL'], from: 'lib' }],
        },
      ],
      '@typescript-eslint/restrict-plus-operands': ['error', { allowNumberAndString: true }],
      '@typescript-eslint/no-confusing-void-expression': 'off',
      // Implementations of asynchronous interfaces may have nothing to wait for.
      '@typescript-eslint/require-await': 'off',
      // `Exchange`, `allGather<T>` and the like give their caller a typed value that came from another process.
      '@typescript-eslint/no-unnecessary-type-parameters': 'off',
      // `while (true)` is a loop with its exits inside.
      '@typescript-eslint/no-unnecessary-condition': ['error', { allowConstantLoopConditions: 'only-allowed-literals' }],
      '@typescript-eslint/unified-signatures': 'off',
      // Tables of message types use `void` for "answers with nothing".
      '@typescript-eslint/no-invalid-void-type': 'off',
      'no-restricted-syntax': [
        'error',
        { selector: 'ExportDefaultDeclaration', message: 'Export by name.' },
        { selector: 'TSEnumDeclaration', message: 'Use a union of literals.' },
      ],
      eqeqeq: 'error',
      'prefer-const': 'error',
    },
  },
  {
    // Tools ask for a default export in their configuration files.
    files: ['**/*.config.ts', '*.config.ts'],
    rules: { 'no-restricted-syntax': 'off' },
  },
  {
    files: ['**/*.test.ts', '**/*.fixture.ts', '**/test/**/*.ts', '**/testing/**/*.ts'],
    rules: {
      'max-lines': ['error', 450],
      // Asserting on methods of interfaces needs these, and vitest's matchers such as `expect.any` are typed `any`.
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/unbound-method': 'off',
      '@typescript-eslint/no-empty-function': 'off',
    },
  },
  {
    // What runs where clocks are set: deadlines, heartbeats and durations by `performance.now()`, which never jumps.
    files: ['packages/*/src/**/*.ts', 'apps/cli/src/**/*.ts', 'native/**/*.ts'],
    ignores: ['**/*.test.ts', '**/*.fixture.ts', '**/*.fuzz.ts'],
    rules: {
      'no-restricted-properties': [
        'error',
        { object: 'Date', property: 'now', message: 'The wall clock may jump: use performance.now(), or say why not.' },
      ],
    },
  },
  {
    files: ['**/*.mjs', '**/*.cjs', '**/*.js'],
    languageOptions: { globals: globals.node },
    rules: { eqeqeq: 'error', 'prefer-const': 'error' },
  },
)
