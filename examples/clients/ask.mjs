// The TypeScript SDK with a token in a file. The kubelet replaces the file: a client that lives for long reads it again.
import { readFileSync } from "node:fs";
import Anthropic from "@anthropic-ai/sdk";

const token = () => readFileSync("/var/run/secrets/oauth-pool/token", "utf8").trim();
const client = new Anthropic({ authToken: token(), apiKey: null });
const messages = [{ role: "user", content: "Hello" }];
console.log(await client.messages.create({ model: "claude-haiku-4-5", max_tokens: 100, messages }));
