import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** Where Chromium and Chrome keep SwiftShader, the software Vulkan device, and a Vulkan loader. */
const FOLDERS = [
  '/usr/lib/chromium',
  '/usr/lib/chromium-browser',
  '/opt/google/chrome',
  '/snap/chromium/current/usr/lib/chromium-browser',
]
const DRIVER = 'vk_swiftshader_icd.json'

/**
 * What must stand in the environment before a process starts for WebGPU to find a software device; nothing where
 * the machine may have one of its own, where Vulkan is configured, or where there is none.
 */
export function softwareVulkan(env: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  const isConfigured = env.VK_DRIVER_FILES !== undefined || env.VK_ICD_FILENAMES !== undefined
  const mayHaveDevice = existsSync('/dev/dri') || existsSync('/dev/nvidia0')
  const folder = FOLDERS.find((path) => existsSync(join(path, DRIVER)))
  if (process.platform !== 'linux' || isConfigured || mayHaveDevice || !folder) return {}
  return {
    VK_DRIVER_FILES: join(folder, DRIVER),
    LD_LIBRARY_PATH: [env.LD_LIBRARY_PATH, folder].filter(Boolean).join(':'),
  }
}
