-- The sample: todos of two users, each of whom sees their own. As the owner, after the migrations; idempotent.

SELECT to_regclass('public.todos') IS NULL AS missing \gset
\if :missing
BEGIN;

CREATE TABLE todos (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid NOT NULL,
    title text NOT NULL,
    done boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_todos ON todos TO authenticated
    USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
GRANT SELECT, INSERT, UPDATE, DELETE ON todos TO authenticated, service_role;

INSERT INTO todos (user_id, title, done) VALUES
    ('a11ce000-0000-4000-8000-000000000001', 'Water the plants', true),
    ('a11ce000-0000-4000-8000-000000000001', 'Write to Bob', false),
    ('a11ce000-0000-4000-8000-000000000001', 'Book the train', false),
    ('b0b00000-0000-4000-8000-000000000002', 'Call Alice back', false),
    ('b0b00000-0000-4000-8000-000000000002', 'Repair the bicycle', false);

COMMIT;
\endif

SELECT enable_realtime('todos');

-- What the login that serves needs besides REPLICATION.
GRANT USAGE ON SCHEMA realtime TO walcast_replication;
GRANT SELECT ON realtime.walcast_migrations, realtime.walcast_tables TO walcast_replication;
GRANT EXECUTE ON FUNCTION realtime.walcast_messages_add_day, realtime.walcast_messages_expire TO walcast_replication;
