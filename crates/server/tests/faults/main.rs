//! The fault suite: what a client receives is compared with what was committed, while process,
//! network, database and slot are hurt. `make faults` runs it in full and prints the counts;
//! `cargo test --test faults` runs a short form.
//!
//! Each scenario has a Postgres of its own. Its seed is printed; `WALCAST_FAULTS_SEED` repeats it.
//! `WALCAST_POSTGRES` names the programs of another version (`make faults POSTGRES=17`).
//!
//! # What is asserted where
//!
//! *Oracle*: nothing lost, twice, leaked, out of order or torn, and each client's state equals a `SELECT`
//! as its role. Beside it stands what else is asserted; after "not:" what is counted or seen elsewhere
//! only. Names without a file are of this suite. How long something may take is asserted in the full form,
//! which has the machine to itself; in the short one each wait has its deadline.
//!
//! | what happens | tests | asserted |
//! |---|---|---|
//! | the server is killed, once and twenty times | `a1_a2_killed_under_load` | oracle; first event in 5 s; one slot; files. not: RSS, printed |
//! | it is told to stop | `a3_terminated_under_load`, native `stopping_tells_the_clients`, source `closing_sends_the_last_acknowledgement` | oracle; exit 0; close 1001; last acknowledgement |
//! | its disk is full | `a4_disk_full` | oracle; 503; nothing acknowledged meanwhile |
//! | Postgres restarts; crashes after acknowledgements | `a6_restarted_under_load`, `a7_crashes_after_acknowledgements` | oracle; first event in 3 s; clients stay |
//! | the link to Postgres: resets, a black hole, slowness, pieces | `a8_resets`, `a9_black_hole`, `a10_slow_link`, `a11_sliced` | oracle; no storm of tries; noticed in 30 s; stream kept; the metric of the lag rises and drains |
//! | all clients are cut, and come back at once | `a12_everybody_comes_back` | oracle; in 10 s; no reading of the table |
//! | the clock jumps by an hour, both ways | `a13_the_clock_jumps` (with libfaketime) | oracle; expired tokens end; nobody else is cut; cursors stay good |
//! | the server is frozen | `a14_frozen` | oracle; connects anew (full form) |
//! | all consumers stall | `b15_stalled_consumers`, source `a_blocked_consumer_keeps_its_connection` | oracle; the connection lives |
//! | others write, we and our database rest | `b16_b17_idle_tables_hold_nothing_back` | less than 64 MiB held back |
//! | the slot is invalidated, dropped, advanced, taken over | `b18_…`, `b19_…`, `b20_…` (2), `b21_…`, `b22_a_standby_takes_over` | oracle; each is told of the gap; slot, cause and remedy logged; in 10 s |
//! | a transaction is open before the first start | `b23_an_open_transaction_before_the_first_start` | oracle; its process named; streaming 2 s after COMMIT (full form) |
//! | misconfigured | `b24_misconfigured`, source `refusals` (passwords, TLS, rights, full slots) | cause and remedy; `doctor` fails |
//! | a standby takes over, with the slot | `b25_a_slot_that_fails_over` (PostgreSQL 17 or later) | oracle; told of the new timeline; the same slot |
//! | a standby takes over, behind us; with another slot of that name; server down | `b26_…` (3) | each is told; shows what is there |
//! | an older copy, another server | `b27_an_older_copy`, `b27_an_older_copy_and_a_client_that_came_back`, `b27_another_server` | each is told; shows what is there |
//! | snapshots under load, killed at 30 and 70 % | `b28_killed_while_rows_are_read` | oracle. not: it begins anew; no forecast of the end |
//! | the publication is dropped and made again | `b29_publication_dropped` | oracle; alarm in 10 s; told |
//! | huge transactions, of many rows and of large ones | `c32_…` (2) | oracle; RSS below 512 MiB. not: how long others wait |
//! | many writers at once | `c33_many_at_once` | oracle, which has Postgres's order of commits |
//! | DDL at any time | `c34_ddl_storm`, native `changes_of_a_table_under_way_are_read_with_the_shape_of_their_time` | oracle; columns of their time. not: no message tells of a schema |
//! | every type, every value | change `every_type`, `random_rows` (10,000), `any_bytes`, `differences` | equal to `to_jsonb`. not: a value of 10 MB, which `c32_…` of large rows has nearly |
//! | integers beyond 2^53 | native `quoted_names_and_the_types_of_the_database_itself` | every digit is sent. not: they are JSON numbers, which `JSON.parse` rounds |
//! | large values left alone | `c37_large_values_left_alone`, change `real_changes` | there or named, never null, by every identity |
//! | keys of all types, names of all kinds | `c38_keys_of_all_types`, `c38_names_of_all_kinds` | each row by its key, under its name |
//! | truncations, partitions, inheritance | `c39_truncations_partitions_inheritance`, native `partitions_speak_as_their_root` | each as documented |
//! | prepared transactions, savepoints, COPY, upserts, triggers, cascades, generated columns | `c40_every_way_to_write` | what was committed, in its order |
//! | other encodings | `c41_other_encodings`, change `bytes_that_are_no_utf8_are_replaced` | LATIN1 whole; SQL_ASCII told by `doctor`, bad bytes replaced |
//! | bytes that are no messages | `fuzz/`, which `make test` runs | no panic, bounded memory |
//! | sixty subscribers of six roles | `d43_sixty_subscribers_of_six_roles`, rls `sixty_viewers_of_six_roles` | oracle |
//! | policies of all kinds | rls `prove` (`make prove`) | equal to a direct `SELECT` |
//! | decoded before visible | `d45_decoded_before_visible` | oracle |
//! | rows of a millisecond, deletes of rows unseen, keys again | `d47_inserted_and_deleted_at_once`, native `sight` | oracle |
//! | rights are taken away | `d48_revoked_while_streaming`, `d48_a_column_is_revoked`, rls `fresh` | nothing after the commit; of the catalogue alone after 1 s |
//! | tokens with dangerous roles | rls `dangerous_roles_see_nothing`, native `tokens_that_are_not_accepted` | refused |
//! | hostile policies | `d50_d51_hostile_policies`, rls `poison` | nothing seen, left or logged; others in order. not: their rate |
//! | ten thousand different viewers | `d52_a_crowd_of_different_viewers` | oracle; RSS below 1 GiB; looked up, 10 s behind at most |
//! | refusals as a source of knowledge | `d53_refusals_look_alike_and_take_alike`, native `nobody_learns_what_exists` | same answer; times within 20 % |
//! | policies of channels; stored messages and cursors across a revocation | rls `channel`, phoenix `private`, native `filters_and_policies_of_now_decide_what_is_told_of_then` | as Postgres answers now |

mod clock;
mod crowd;
mod decoding;
mod failover;
mod network;
mod postgres;
mod process;
mod report;
mod rights;
mod secrets;
mod shapes;
mod slot;
mod snapshots;
mod stage;
mod traps;
