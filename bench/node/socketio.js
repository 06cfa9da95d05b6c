// A chat server as one writes it with socket.io and Postgres: a message is stored, then acknowledged and sent to the room.
// node socketio.js PORT DATABASE
import { createServer } from 'node:http';
import pg from 'pg';
import { Server } from 'socket.io';

const [port, connectionString] = process.argv.slice(2);
// As many connections as pgbench has clients.
const pool = new pg.Pool({ connectionString, max: 32 });
// Prepared, because it has a name.
const insert = {
  name: 'insert',
  text: `WITH next AS (UPDATE conversations SET last_seq = last_seq + 1 WHERE id = $1 RETURNING last_seq)
    INSERT INTO messages (conversation_id, seq, id, sender_id, client_message_id, text, created_at)
    SELECT $1, last_seq, gen_random_uuid(), $2, $3, $4, now() FROM next RETURNING seq, id, created_at`,
};

const http = createServer();
const io = new Server(http, { transports: ['websocket'], serveClient: false, perMessageDeflate: false });
io.on('connection', (socket) => {
  socket.on('join', (conversation, done) => {
    socket.join(`c${conversation}`);
    done();
  });
  socket.on('send', async (conversation, sender, clientMessageId, text, done) => {
    try {
      const { rows } = await pool.query({ ...insert, values: [conversation, sender, clientMessageId, text] });
      const [{ seq, id, created_at: createdAt }] = rows;
      io.to(`c${conversation}`).emit('message', { id, conversation, seq, sender, clientMessageId, text, createdAt });
      done(seq);
    } catch (error) {
      done(null, error.message);
    }
  });
});
http.listen(Number(port), '127.0.0.1');
