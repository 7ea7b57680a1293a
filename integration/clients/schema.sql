-- The tables and policies of the tests with Supabase's clients. As the owner, after the migrations.

-- Everybody's, of every type that filters ask about.
CREATE TABLE items (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run text NOT NULL,
    name text,
    score integer,
    ready boolean,
    tags text[],
    info jsonb,
    at timestamptz
);
GRANT SELECT, INSERT, UPDATE, DELETE ON items TO anon, authenticated, service_role;

-- Each user's own.
CREATE TABLE notes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id uuid NOT NULL,
    text text NOT NULL
);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_notes ON notes TO authenticated USING (user_id = auth.uid()) WITH CHECK (user_id = auth.uid());
GRANT SELECT, INSERT, UPDATE, DELETE ON notes TO authenticated, service_role;
GRANT SELECT ON notes TO anon;

SELECT enable_realtime('items');
SELECT enable_realtime('notes');

-- Who may enter a private room, and who may speak there.
CREATE TABLE members (user_id uuid NOT NULL, room text NOT NULL, speaks boolean NOT NULL DEFAULT true);
GRANT SELECT ON members TO authenticated;
CREATE POLICY members_read ON realtime.messages FOR SELECT TO authenticated USING (
    EXISTS (SELECT FROM members m WHERE m.user_id = auth.uid() AND m.room = realtime.topic()));
CREATE POLICY members_write ON realtime.messages FOR INSERT TO authenticated WITH CHECK (
    extension IN ('broadcast', 'presence')
    AND EXISTS (SELECT FROM members m WHERE m.user_id = auth.uid() AND m.room = realtime.topic() AND m.speaks));

-- What applications do instead of subscribing to a table: a trigger that sends.
CREATE TABLE orders (id bigint PRIMARY KEY, state text NOT NULL);
CREATE FUNCTION order_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
BEGIN
    PERFORM realtime.broadcast_changes('orders', TG_OP, TG_OP, TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD);
    RETURN NULL;
END $$;
CREATE TRIGGER order_changed AFTER INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION order_changed();

GRANT USAGE ON SCHEMA realtime TO walcast_replication;
GRANT SELECT ON realtime.walcast_migrations, realtime.walcast_tables TO walcast_replication;
GRANT EXECUTE ON FUNCTION realtime.walcast_messages_add_day, realtime.walcast_messages_expire TO walcast_replication;
