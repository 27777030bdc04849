export { addonPackages, copyAddons, copyZeromq } from './addons.ts'
export { bundleJavaScript } from './javascript.ts'
export { type FetchedNode, fetchNode } from './node.ts'
export { ROOT } from './root.ts'
