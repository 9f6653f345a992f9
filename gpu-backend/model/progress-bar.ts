import type { PinnedFile } from './download-client.ts'

const WIDTH = 30

/** A bar redrawn in place on a terminal; elsewhere one line at every tenth. */
export function createProgressBar(
  output: { readonly isTTY?: boolean; readonly write: (text: string) => unknown },
  file: PinnedFile,
) {
  let shown = -1
  return {
    update(doneBytes: number): void {
      const percent = Math.floor((doneBytes / file.sizeBytes) * 100)
      const step = output.isTTY ? percent : Math.floor(percent / 10)
      if (step === shown) return
      shown = step
      const line = `${file.name} ${drawBar(percent)} ${formatMegabytes(doneBytes)} of ${formatMegabytes(file.sizeBytes)} MB`
      output.write(output.isTTY ? `\r${line}` : `${line}\n`)
    },
    end(): void {
      if (output.isTTY && shown >= 0) output.write('\n')
    },
  }
}

function drawBar(percent: number): string {
  const full = Math.round((percent / 100) * WIDTH)
  return `[${'#'.repeat(full)}${' '.repeat(WIDTH - full)}] ${percent} %`
}

function formatMegabytes(bytes: number): string {
  return (bytes / 1e6).toFixed(1)
}
