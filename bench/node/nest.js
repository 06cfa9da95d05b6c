// NestJS as its first steps have it: a controller that returns objects. Decorators are applied by hand, which is what
// TypeScript makes of them, so that nothing has to be compiled.
// node nest.js express|fastify PORT FOLDER: FOLDER has the answers, order.json and list.json.
import 'reflect-metadata';
import { readFileSync } from 'node:fs';
import { Controller, Get, Module, Param } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';

const [platform, port, folder] = process.argv.slice(2);
const answer = (name) => JSON.parse(readFileSync(`${folder}/${name}.json`));
const [one, list] = [answer('order'), answer('list')];

class OrdersController {
  get(_id) {
    return one;
  }

  list() {
    return list;
  }
}
const decorate = (method, ...decorators) => {
  const descriptor = Object.getOwnPropertyDescriptor(OrdersController.prototype, method);
  decorators.forEach((decorator) => decorator(OrdersController.prototype, method, descriptor));
};
decorate('get', Get(':id'));
Param('id')(OrdersController.prototype, 'get', 0);
decorate('list', Get());
Controller('v1/orders')(OrdersController);

class AppModule {}
Module({ controllers: [OrdersController] })(AppModule);

const adapter = async () => {
  if (platform === 'express') {
    return new (await import('@nestjs/platform-express')).ExpressAdapter();
  }
  return new (await import('@nestjs/platform-fastify')).FastifyAdapter();
};
const app = await NestFactory.create(AppModule, await adapter(), { logger: ['error', 'warn'] });
await app.listen(Number(port), '127.0.0.1');
