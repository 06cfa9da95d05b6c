// fastify as it recommends itself: a schema of each response, from which it makes the serializer.
// node fastify.js PORT FOLDER: FOLDER has the answers, order.json and list.json.
import { readFileSync } from 'node:fs';
import Fastify from 'fastify';

const [port, folder] = process.argv.slice(2);
const answer = (name) => JSON.parse(readFileSync(`${folder}/${name}.json`));
const [one, list] = [answer('order'), answer('list')];

const text = { type: 'string' };
const order = {
  $id: 'order',
  type: 'object',
  properties: {
    id: text,
    number: text,
    title: text,
    state: text,
    quantity: { type: 'integer' },
    price: { type: 'number' },
    paid: { type: 'boolean' },
    tags: { type: 'array', items: text },
    itemNumbers: { type: 'array', items: text },
    createdAt: text,
    updatedAt: text,
    buyer: { type: 'object', properties: { name: text, level: { type: 'integer' } } },
  },
};
const orders = { type: 'object', properties: { orders: { type: 'array', items: { $ref: 'order#' } } } };

const app = Fastify();
app.addSchema(order);
app.get('/v1/orders/:id', { schema: { response: { 200: { $ref: 'order#' } } } }, async () => one);
app.get('/v1/orders', { schema: { response: { 200: orders } } }, async () => list);
await app.listen({ host: '127.0.0.1', port: Number(port) });
