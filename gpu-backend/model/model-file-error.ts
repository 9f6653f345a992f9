/** A model or weight file that cannot be used; the message names the file, tensor or field at fault. */
export class ModelFileError extends Error {
  constructor(message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options)
    this.name = 'ModelFileError'
  }
}
