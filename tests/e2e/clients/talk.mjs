// OpenAI's client for JavaScript against a server whose model says what the test wants. Prints what it got, as JSON.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const model = "tiny";
const messages = [{ role: "user", content: "hi" }];
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const flat = [{ type: "function", name: "weather", parameters, strict: false }];

const calls = (message) => message.tool_calls?.map((call) => [call.function.name, call.function.arguments]);

const whole = (await client.chat.completions.create({ model, messages, tools })).choices[0];

const deltas = [];
const helper = client.chat.completions.stream({ model, messages, tools });
helper.on("content", (delta) => deltas.push(delta));
const put = (await helper.finalChatCompletion()).choices[0];

const result = { role: "tool", tool_call_id: whole.message.tool_calls[0].id, content: "Sunny." };
await client.chat.completions.create({ model, messages: [...messages, whole.message, result], tools });

const kinds = [];
const events = client.responses.stream({ model, input: "hi", tools: flat });
for await (const event of events) kinds.push(event.type);
const response = await events.finalResponse();

const errors = [];
for (const body of [{ tool_choice: "required" }, { model: "other" }]) {
  try {
    await client.chat.completions.create({ model, messages, ...body });
  } catch (error) {
    errors.push([error.constructor.name, error.status, error.param, error.code]);
  }
}

console.log(
  JSON.stringify({
    whole: [whole.message.content, calls(whole.message), whole.finish_reason],
    put: [put.message.content, calls(put.message), put.finish_reason],
    deltas: deltas.join(""),
    response: [response.output_text, response.output.map((item) => item.arguments ?? item.type), response.status],
    kinds: [kinds[0], kinds.at(-1)],
    errors,
  }),
);
