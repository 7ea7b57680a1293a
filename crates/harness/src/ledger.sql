do $$
declare
    wanted text;
begin
    foreach wanted in array array['anon', 'authenticated', 'masked', 'team', 'auditor'] loop
        if to_regrole(wanted) is null then
            execute format('create role %I nologin noinherit', wanted);
        end if;
    end loop;
    if to_regrole('service_role') is null then
        create role service_role nologin noinherit bypassrls;
    end if;
    if to_regrole('walcast_checks') is null then
        create role walcast_checks login noinherit;
    end if;
    grant anon, authenticated, masked, service_role, team, auditor to walcast_checks;
end
$$;

create table ledger (
    id bigint primary key,
    owner uuid not null,
    version bigint not null,
    body text not null
);

create table ledger_members (member uuid, owner uuid, primary key (member, owner));

create function ledger_user(owner int) returns uuid language sql immutable
    return ('00000000-0000-4000-8000-' || lpad(to_hex(owner), 12, '0'))::uuid;

create function ledger_body(version bigint) returns text language sql immutable
    return repeat(version::text || '·', (version % 9)::int);

create function ledger_audits(candidate uuid) returns boolean language sql stable security definer
    set search_path = ''
    return exists (select from public.ledger_members m where m.member = auth.uid() and m.owner = candidate);

-- Owner 0 is everybody.
insert into ledger_members
    select ledger_user(n), ledger_user(n + d) from generate_series(1, 100) n, generate_series(0, 1) d;

alter table ledger enable row level security;
create policy everybody on ledger for select to anon, authenticated, masked, team, auditor
    using (owner = '00000000-0000-4000-8000-000000000000');
create policy even on ledger for select to anon using (version % 2 = 0);
create policy own on ledger for select to authenticated, masked using (owner = auth.uid());
create policy team on ledger for select to team using (
    exists (select from ledger_members m where m.member = auth.uid() and m.owner = ledger.owner));
create policy audited on ledger for select to auditor using (ledger_audits(owner));

grant usage on schema auth to anon, authenticated, masked, team, auditor, service_role, walcast_checks;
grant select on ledger to anon, authenticated, team, auditor, service_role;
grant select (id, owner, version) on ledger to masked;
grant select on ledger_members to team;
select enable_realtime('ledger');
