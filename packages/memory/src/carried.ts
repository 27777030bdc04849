import { CkptError, MAX_DIMENSIONS, MAX_NAME_LENGTH, type ErrorFields } from '@ckpt/contract'

/**
 * Checks limits of the messages between ranks and workers: lengths of names and numbers of dimensions.
 *
 * @throws CkptError `UNSUPPORTED` naming the tensor, the field and what `where` names.
 */
export function checkCarried(
  tensors: readonly { readonly name: string; readonly shape: readonly number[] }[],
  where: Pick<ErrorFields, 'file' | 'peer'>,
): void {
  for (const { name, shape } of tensors) {
    if (name.length > MAX_NAME_LENGTH) {
      throw refused(where, name, 'name', `its name has ${name.length} characters; at most ${MAX_NAME_LENGTH} are supported`)
    }
    if (shape.length > MAX_DIMENSIONS) {
      throw refused(where, name, 'shape', `it has ${shape.length} dimensions; at most ${MAX_DIMENSIONS} are supported`)
    }
  }
}

function refused(where: Pick<ErrorFields, 'file' | 'peer'>, tensor: string, field: string, why: string): CkptError {
  const subject = where.file === undefined ? '' : `${where.file}: `
  const short = tensor.length > 200 ? `${tensor.slice(0, 200)}…` : tensor
  return new CkptError('UNSUPPORTED', `${subject}tensor ${JSON.stringify(short)}: ${why}`, {
    fields: { ...where, tensor: short, field },
  })
}
