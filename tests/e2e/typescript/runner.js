// Plays scenarios with the provider's official TypeScript SDK, one line of JSON in and one out for each:
//
//   {"scenario": "stream", "url": "http://…", "key": "…", "parameters": {…}}
//   {"seen": {…}} or {"seen": {…}, "error": {"name", "status", "type", "message", "requestID", "retryAfter"}}
//
// `seen` is what the user of the SDK had in hands, also when an error followed. Ends with its standard input.

import { createInterface } from "node:readline";
import Anthropic from "@anthropic-ai/sdk";

const DEADLINE = 30_000;

const scenarios = {
  async message(client, parameters, seen) {
    seen.message = await client.messages.create(parameters);
    seen.requestID = seen.message._request_id;
  },

  async stream(client, parameters, seen) {
    seen.texts = [];
    const stream = client.messages.stream(parameters).on("text", (text) => seen.texts.push(text));
    seen.message = await stream.finalMessage();
  },

  async events(client, parameters, seen) {
    seen.events = [];
    for await (const event of await client.messages.create({ ...parameters, stream: true })) {
      seen.events.push(event.type);
    }
    seen.isAtEnd = true;
  },

  async streams(client, { number, ...parameters }, seen) {
    const ask = async (text) => {
      const messages = [{ role: "user", content: text }];
      return client.messages.stream({ ...parameters, messages }).finalText();
    };
    seen.texts = await Promise.all(Array.from({ length: number }, (_, index) => ask(`number ${index}`)));
  },

  async leave(client, parameters, seen) {
    const stream = await client.messages.create({ ...parameters, stream: true });
    for await (const event of stream) {
      if (event.type === "content_block_delta") {
        seen.text = event.delta.text;
        break;
      }
    }
  },

  async giveUp(client, parameters) {
    await client.messages.create(parameters, { timeout: 200 });
  },

  async beta(client, parameters, seen) {
    seen.message = await client.beta.messages.create(parameters);
  },

  async countTokens(client, parameters, seen) {
    seen.tokens = await client.messages.countTokens(parameters);
  },

  async models(client, parameters, seen) {
    seen.ids = [];
    for await (const model of client.models.list(parameters)) {
      seen.ids.push(model.id);
    }
  },
};

async function play({ scenario, url, key, parameters }) {
  const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0, timeout: 20_000 });
  const seen = {};
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${scenario} hangs`)), DEADLINE);
  });
  try {
    await Promise.race([scenarios[scenario](client, parameters, seen), late]);
    return { seen };
  } catch (error) {
    return { seen, error: described(error) };
  } finally {
    clearTimeout(timer);
  }
}

function described(error) {
  const { name, status, type, requestID } = error;
  const [message, retryAfter] = [error.apiMessage ?? error.message, error.headers?.get("retry-after")];
  return { name, isOfTheSDK: error instanceof Anthropic.AnthropicError, status, type, message, requestID, retryAfter };
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await play(JSON.parse(line)))}\n`);
}
