export interface ChatMessage {
  /** Stands in the prompt as it is: the caller admits known roles only. */
  readonly role: string
  readonly content: string
  /** What an assistant's message called. */
  readonly toolCalls?: readonly ToolCall[]
  /** The call that a tool's message is the result of. */
  readonly toolCallId?: string
}

export interface ToolCall {
  readonly id: string
  readonly name: string
  readonly arguments: Readonly<Record<string, unknown>>
}

/** As OpenAI's `tools` has it, which is what templates expect. */
export interface ToolDefinition {
  readonly type: 'function'
  readonly function: {
    readonly name: string
    readonly description?: string | undefined
    readonly parameters?: Readonly<Record<string, unknown>> | undefined
  }
}
