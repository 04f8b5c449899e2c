// What the official SDK for Node makes of the gateway's answers, as JSON on standard output:
//   node calls.mjs BASE_URL API_KEY CALL
import OpenAI from "openai";

const [baseURL, apiKey, call] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const chat = { model: "m", messages: [{ role: "user", content: "hi" }] };

async function collect(stream) {
  let text = "";
  let usages = 0;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    usages += chunk.usage ? 1 : 0;
  }
  return { text, usages };
}

const calls = {
  async chat() {
    const { data, response } = await client.chat.completions.create(chat).withResponse();
    return {
      text: data.choices[0].message.content,
      tokens: data.usage.completion_tokens,
      hasRequestId: Boolean(data._request_id) && data._request_id === response.headers.get("x-request-id"),
    };
  },
  async stream() {
    return collect(await client.chat.completions.create({ ...chat, stream: true }));
  },
  async streamWithUsage() {
    return collect(
      await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } }),
    );
  },
  async models() {
    return { ids: (await client.models.list()).data.map((model) => model.id) };
  },
  async otherModel() {
    return client.chat.completions.create({ ...chat, model: "other" });
  },
};

let told;
try {
  told = await calls[call]();
} catch (error) {
  told = { error: error.constructor.name, status: error.status ?? null, code: error.code ?? null, message: error.message };
}
process.stdout.write(JSON.stringify(told));
