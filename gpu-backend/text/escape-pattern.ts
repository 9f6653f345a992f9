/** A pattern that matches exactly this text, for the `u` flag too. */
export function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}
