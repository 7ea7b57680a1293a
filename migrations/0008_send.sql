-- Sending to channels from SQL: what realtime.send(), send_binary() and broadcast_changes() do. Those
-- names are made by walcast_setup(), where nobody else has them.
--
-- As Supabase's, but for one thing: what can't be sent is an error of the statement that sends, where
-- theirs is a warning and a lost message. A trigger that may fail says so by an EXCEPTION block of its own.

-- The message's id. In force while it is written: realtime.topic and realtime.channel_name, which policies
-- read. The sender's rights: its role needs INSERT on realtime.messages and a policy that lets it.
CREATE OR REPLACE FUNCTION realtime.walcast_send(
  payload jsonb, binary_payload bytea, event text, topic text, private boolean) RETURNS uuid
LANGUAGE plpgsql AS $$
DECLARE
  new_id uuid := pg_catalog.gen_random_uuid();
  content jsonb := payload;
  topic_before text := pg_catalog.current_setting('realtime.topic', true);
  channel_before text := pg_catalog.current_setting('realtime.channel_name', true);
BEGIN
  IF topic IS NULL OR topic OPERATOR(pg_catalog.=) '' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a message needs a topic',
      HINT = 'realtime.send(payload, event, topic)';
  END IF;
  IF binary_payload IS NULL THEN
    content := coalesce(payload, '{}'::pg_catalog.jsonb);
    -- of other values than objects nothing can be said that is not in them
    IF pg_catalog.jsonb_typeof(content) OPERATOR(pg_catalog.=) 'object'
       AND NOT content OPERATOR(pg_catalog.?) 'id' THEN
      content := content OPERATOR(pg_catalog.||) pg_catalog.jsonb_build_object('id', new_id);
    END IF;
  END IF;
  PERFORM pg_catalog.set_config('realtime.topic', topic, true),
          pg_catalog.set_config('realtime.channel_name', topic, true);
  INSERT INTO realtime.messages (id, topic, extension, event, payload, binary_payload, private)
    VALUES (new_id, topic, 'broadcast', event, content, binary_payload, coalesce(private, true));
  PERFORM pg_catalog.set_config('realtime.topic', coalesce(topic_before, ''), true),
          pg_catalog.set_config('realtime.channel_name', coalesce(channel_before, ''), true);
  RETURN new_id;
END
$$;

-- A row's change as a message; for row triggers.
CREATE OR REPLACE FUNCTION realtime.walcast_broadcast_changes(
  topic_name text, event_name text, operation text, table_name text, table_schema text,
  new record, old record, level text) RETURNS uuid
LANGUAGE plpgsql AS $$
BEGIN
  IF level OPERATOR(pg_catalog.=) 'STATEMENT' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = 'broadcast_changes sends rows, and a statement''s trigger has none',
      HINT = 'CREATE TRIGGER ... FOR EACH ROW';
  END IF;
  IF (operation OPERATOR(pg_catalog.=) ANY (ARRAY['INSERT', 'UPDATE', 'DELETE'])) IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = pg_catalog.format('operation must be INSERT, UPDATE or DELETE, not %s', pg_catalog.quote_nullable(operation)),
      HINT = 'Pass TG_OP.';
  END IF;
  RETURN realtime.walcast_send(
    pg_catalog.jsonb_build_object('schema', table_schema, 'table', table_name, 'operation', operation,
                                  'record', new, 'old_record', old),
    NULL, event_name, topic_name, true);
END
$$;
