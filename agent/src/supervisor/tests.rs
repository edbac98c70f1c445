//! The supervisor told as short stories: what goes in, and what comes out in few words.

use ace_policies::wire::{Behavior, Start};

use super::*;
use crate::driver::{Message, Refused};

const SECOND: i64 = 1000;

/// A supervisor with a clock, and what it wants done in words.
struct World {
    supervisor: Supervisor,
    now: i64,
    commands: u128,
    disk: BTreeMap<SessionId, Saved>,
}

fn session(number: u128) -> SessionId {
    SessionId::from(Uuid::from_u128(number))
}

fn start(number: u128, run: i64) -> Start {
    Start {
        session_id: session(number),
        run,
        project_path: "/repo".to_owned(),
        cli_tool: "fake".to_owned(),
        model: None,
        permission_mode: None,
        resume_id: None,
        proxy_token: "secret".to_owned(),
        proxy_token_expires_at_s: 10_000,
        last_seq: 0,
    }
}

fn say(content: &str) -> Command {
    Command::SendMessage {
        session_id: session(1),
        content: content.to_owned(),
        attachments: Vec::new(),
    }
}

fn abort() -> Command {
    Command::AbortRequest {
        session_id: session(1),
        reason: String::new(),
    }
}

fn stop() -> Command {
    Command::StopSession { session_id: session(1) }
}

fn model(name: &str) -> Command {
    Command::UpdateModel {
        session_id: session(1),
        model: name.to_owned(),
    }
}

fn exit(code: i32) -> End {
    End::Exit(Exit {
        code,
        words: String::new(),
    })
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            max_sessions: 2,
            ..Limits::default()
        };
        Self {
            supervisor: Supervisor::new(limits, []),
            now: 0,
            commands: 0,
            disk: BTreeMap::new(),
        }
    }

    /// With a session whose CLI is ready.
    fn ready() -> Self {
        let mut world = Self::new();
        world.command(Command::StartSession(start(1, 1)));
        world.told(1, Told::Ready);
        world
    }

    /// With a turn under way.
    fn busy() -> Self {
        let mut world = Self::ready();
        world.command(say("one"));
        world.taken(1, None);
        world
    }

    fn handle(&mut self, event: Event) -> Vec<String> {
        let effects = self.supervisor.handle(event, self.now);
        effects.into_iter().filter_map(|effect| self.word(effect)).collect()
    }

    fn command(&mut self, command: Command) -> Vec<String> {
        self.commands += 1;
        self.again(self.commands, command)
    }

    fn again(&mut self, number: u128, command: Command) -> Vec<String> {
        let command_id = Uuid::from_u128(number);
        self.handle(Event::Command {
            command_id,
            expires_at_ms: self.now + 60 * SECOND,
            command,
        })
    }

    fn told(&mut self, process: u64, told: Told) -> Vec<String> {
        self.handle(Event::Told {
            session_id: session(1),
            process,
            told,
        })
    }

    /// The CLI took the latest command, or not.
    fn taken(&mut self, process: u64, refused: Option<Refused>) -> Vec<String> {
        let tag = Some(Uuid::from_u128(self.commands));
        self.handle(Event::Taken {
            session_id: session(1),
            process,
            tag,
            refused,
        })
    }

    fn exited(&mut self, process: u64, end: End) -> Vec<String> {
        self.handle(Event::Exited {
            session_id: session(1),
            process,
            end,
        })
    }

    fn later(&mut self, ms: i64) -> Vec<String> {
        self.now += ms;
        self.handle(Event::Tick)
    }

    fn connected(&mut self, known: &[(u128, i64, bool)]) -> Vec<String> {
        let known = known.iter().map(|(number, run, live)| Known {
            session_id: session(*number),
            run: *run,
            live: *live,
            last_seq: 0,
        });
        let known = known.collect();
        self.handle(Event::Connected {
            clock_ahead_ms: 0,
            known,
        })
    }

    /// The agent is killed and started again with what is on the disk.
    fn crash(&mut self) {
        self.supervisor = Supervisor::new(self.supervisor.limits.clone(), self.disk.values().cloned());
    }

    fn word(&mut self, effect: Effect) -> Option<String> {
        Some(match effect {
            Effect::Say(word) => said(word),
            Effect::Print { stream, data, .. } => {
                let text = String::from_utf8(data).unwrap();
                let event: Value = serde_json::from_str(&text).unwrap_or_default();
                format!("{stream}: {}", event["result"].as_str().unwrap_or(text.trim_end()))
            }
            Effect::Token { token, until_ms, .. } => format!("token {token} until {until_ms}"),
            Effect::Spawn { process, start, .. } => {
                let model = start.model.as_deref().unwrap_or("-");
                format!(
                    "spawn {process} {} {model}{}",
                    start.resume_id.as_deref().unwrap_or("new"),
                    start.proxy_token
                )
            }
            Effect::Give { process, input, .. } => format!("give {process} {}", given(input)),
            Effect::Hold { process, held, .. } => format!("hold {process} {held}"),
            Effect::End { process, .. } => format!("end {process}"),
            Effect::Save(id, saved) => {
                self.disk.insert(id, *saved);
                return None;
            }
            Effect::Close(_) => "close".to_owned(),
            Effect::Forget(id) => {
                self.disk.remove(&id);
                "forget".to_owned()
            }
        })
    }
}

fn said_by(effect: Effect) -> String {
    match effect {
        Effect::Say(word) => said(word),
        other => format!("{other:?}"),
    }
}

fn said(word: FromAgent) -> String {
    match word {
        FromAgent::Ack { command_id } => format!("ack {}", command_id.as_u128()),
        FromAgent::Done { command_id, error, .. } => {
            let error = error.map(|error| format!(": {} {}", error.code, error.message));
            format!("done {}{}", command_id.as_u128(), error.unwrap_or_default())
        }
        FromAgent::Status {
            run,
            state,
            busy,
            resume_id,
            message,
            ..
        } => {
            let busy = if busy { " busy" } else { "" };
            let resume_id = resume_id.map(|id| format!(" {id}")).unwrap_or_default();
            let message = message.map(|message| format!(": {message}")).unwrap_or_default();
            format!("status {run} {state}{busy}{resume_id}{message}")
        }
        FromAgent::Approval {
            request_id, tool_name, ..
        } => format!("asks {request_id} {tool_name}"),
        FromAgent::ApprovalCancelled { request_id, .. } => format!("asks no more {request_id}"),
        FromAgent::TokenRequest { run, .. } => format!("wants a token {run}"),
        other => format!("{other:?}"),
    }
}

fn given(input: Input) -> String {
    match input {
        Input::Message(Message { content, .. }) => format!("message {content}"),
        Input::Interrupt => "interrupt".to_owned(),
        Input::Answer {
            request_id,
            allow,
            message,
        } => {
            format!("answer {request_id} {allow} {}", message.unwrap_or_default())
        }
        Input::Model(model) => format!("model {model}"),
        Input::PermissionMode(mode) => format!("mode {mode}"),
    }
}

#[track_caller]
fn check<const N: usize>(words: Vec<String>, expected: [&str; N]) {
    assert_eq!(words, expected);
}

#[test]
fn a_session_starts_takes_messages_one_at_a_time_and_stops() {
    let mut world = World::new();
    check(
        world.command(Command::StartSession(start(1, 1))),
        ["ack 1", "token secret until 10000000", "spawn 1 new -"],
    );
    check(world.told(1, Told::Ready), ["status 1 running", "done 1"]);
    check(
        world.command(say("one")),
        ["ack 2", "give 1 message one", "status 1 running busy"],
    );
    check(world.taken(1, None), ["done 2"]);
    check(world.command(say("two")), ["ack 3"]);
    check(
        world.told(1, Told::Conversation("c".to_owned())),
        ["status 1 running busy c"],
    );
    check(
        world.told(1, Told::TurnEnded(None)),
        ["status 1 running c", "give 1 message two", "status 1 running busy c"],
    );
    check(world.command(stop()), ["ack 4", "end 1"]);
    check(
        world.exited(1, exit(143)),
        [
            "done 3: interrupted the CLI ended while it was given this",
            "status 1 stopped c",
            "close",
            "done 4",
        ],
    );
    check(world.connected(&[(1, 1, false)]), ["close", "forget"]);
    assert!(world.disk.is_empty());
}

#[test]
fn a_command_that_comes_again_is_acknowledged_and_nothing_else() {
    let mut world = World::busy();
    check(world.again(2, say("one")), ["ack 2"]);
    world.crash();
    check(world.again(2, say("one")), ["ack 2"]);
    check(world.again(1, Command::StartSession(start(1, 1))), ["ack 1"]);
}

#[test]
fn a_command_that_is_not_on_the_disk_is_taken_back() {
    let mut world = World::busy();
    let mut refused = |number: u128, command: Command| {
        let command_id = Uuid::from_u128(number);
        let expires_at_ms = 60 * SECOND;
        let effects = world.supervisor.handle(
            Event::Command {
                command_id,
                expires_at_ms,
                command,
            },
            0,
        );
        let is_saved_first = matches!(effects[0], Effect::Save(..)) && effects[1] == command::ack(command_id);
        assert!(is_saved_first, "{effects:?}");
        let effect = world.supervisor.take_back(command_id, "full".to_owned());
        assert_eq!(said_by(effect), format!("done {number}: failed full"));
    };
    refused(3, say("two"));
    refused(4, abort());
    refused(5, model("-x"));
    refused(6, Command::StartSession(start(1, 2)));
    refused(7, Command::StartSession(start(2, 1)));
    check(world.told(1, Told::TurnEnded(None)), ["status 1 running"]);
    check(
        world.again(3, say("two")),
        ["ack 3", "give 1 message two", "status 1 running busy"],
    );
    assert_eq!(world.supervisor.active(), 1);
}

#[test]
fn a_stop_asks_nothing_of_the_disk() {
    let mut world = World::busy();
    let stop = Event::Command {
        command_id: Uuid::nil(),
        expires_at_ms: 1,
        command: stop(),
    };
    let effects = world.supervisor.handle(stop, 0);
    assert!(matches!(effects[0], Effect::Say(FromAgent::Ack { .. })));
}

#[test]
fn a_message_that_cannot_be_handed_over_is_refused_and_the_next_is_tried() {
    let mut world = World::ready();
    world.command(say("one"));
    check(
        world.taken(1, Some(Refused::Failed("full".to_owned()))),
        ["done 2: failed full", "status 1 running"],
    );
}

#[test]
fn a_command_whose_time_is_over_is_not_begun_but_a_stop_always_is() {
    let mut world = World::ready();
    let late = |command| Event::Command {
        command_id: Uuid::from_u128(9),
        expires_at_ms: -1,
        command,
    };
    check(
        world.handle(late(abort())),
        ["ack 9", "done 9: failed it came too late: its time was over"],
    );
    let stop = Event::Command {
        command_id: Uuid::from_u128(8),
        expires_at_ms: -1,
        command: stop(),
    };
    check(world.handle(stop), ["ack 8", "end 1"]);
}

#[test]
fn the_servers_clock_counts_for_deadlines_and_tokens() {
    let mut world = World::ready();
    world.handle(Event::Connected {
        clock_ahead_ms: 3_600_000,
        known: vec![],
    });
    let mut world = World::new();
    world.handle(Event::Connected {
        clock_ahead_ms: 3_600_000,
        known: vec![],
    });
    let words = world.handle(Event::Command {
        command_id: Uuid::from_u128(1),
        expires_at_ms: 3_600_001,
        command: Command::StartSession(start(1, 1)),
    });
    check(words, ["ack 1", "token secret until 6400000", "spawn 1 new -"]);
}

#[test]
fn no_more_sessions_than_allowed_are_started() {
    let mut world = World::ready();
    world.command(Command::StartSession(start(2, 1)));
    let text = "this machine runs 2 sessions already, and no more than that at once";
    check(
        world.command(Command::StartSession(start(3, 1))),
        ["ack 3", &format!("done 3: too_much {text}")],
    );
    world.command(stop());
    check(
        world.command(Command::StartSession(start(3, 1))),
        ["ack 5", "token secret until 10000000", "spawn 1 new -"],
    );
}

#[test]
fn an_older_run_changes_nothing_and_a_later_one_takes_over() {
    let mut world = World::busy();
    world.command(say("waits"));
    world.command(model("a"));
    check(
        world.command(Command::StartSession(start(1, 0))),
        ["ack 5", "done 5: invalid run 0 is over"],
    );
    check(
        world.command(Command::StartSession(start(1, 2))),
        [
            "ack 6",
            "done 3: interrupted the session was started anew before it was its turn",
            "done 4: interrupted the session was started anew before it was its turn",
            "end 1",
            "token secret until 10000000",
        ],
    );
    check(world.told(1, Told::TurnEnded(None)), ["status 2 running"]);
    check(world.exited(1, exit(0)), ["spawn 2 new -"]);
    check(world.told(1, Told::Failed("old".to_owned())), []);
    check(world.told(2, Told::Ready), ["status 2 running", "done 6"]);
}

#[test]
fn a_cli_that_cannot_start_ends_the_session_that_began_with_it() {
    let mut world = World::new();
    world.command(Command::StartSession(start(1, 1)));
    let missing = End::NotStarted(failure(FailureCode::Unsupported, "it is not installed"));
    check(
        world.exited(1, missing),
        [
            "system: it is not installed",
            "done 1: unsupported it is not installed",
            "status 1 error: it is not installed",
            "close",
        ],
    );
    check(
        world.command(say("hello")),
        ["ack 2", "done 2: invalid the session has ended here"],
    );
    check(
        world.connected(&[(1, 1, true)]),
        ["status 1 error: it is not installed"],
    );
}

#[test]
fn a_cli_that_never_gets_ready_is_ended() {
    let mut world = World::new();
    world.command(Command::StartSession(start(1, 1)));
    check(world.later(120 * SECOND), []);
    let why = "the CLI was not ready after 120 s";
    check(
        world.later(SECOND),
        [
            "end 1",
            &format!("system: {why}"),
            &format!("done 1: failed {why}"),
            &format!("status 1 error: {why}"),
            "close",
        ],
    );
    check(world.exited(1, exit(143)), []);
}

#[test]
fn a_dead_cli_is_started_by_the_next_message_with_its_conversation() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    let lost = "the turn was lost: the CLI ended with exit code 3";
    check(
        world.exited(1, exit(3)),
        [&format!("stdout: {lost}"), &format!("status 1 running c: {lost}")],
    );
    check(world.command(say("two")), ["ack 3", "spawn 2 c -"]);
    check(
        world.told(2, Told::Ready),
        ["give 2 message two", "status 1 running busy c"],
    );
    world.taken(2, None);
    world.told(2, Told::TurnEnded(None));
    check(
        world.exited(2, exit(139)),
        ["system: the CLI was ended by signal 11; the next message starts it again"],
    );
    check(world.command(say("three")), ["ack 4", "spawn 3 c -"]);
    check(
        world.exited(3, exit(1)),
        [
            "system: the CLI ended with exit code 1 before it was ready",
            "done 4: failed the CLI ended with exit code 1 before it was ready",
        ],
    );
    check(world.command(say("four")), ["ack 5", "spawn 4 c -"]);
}

#[test]
fn a_cli_that_is_done_completes_the_session() {
    let mut world = World::ready();
    check(world.exited(1, exit(0)), ["status 1 completed", "close"]);
}

#[test]
fn an_abort_ends_the_turn_under_way_and_leaves_later_ones_alone() {
    let mut world = World::busy();
    world.command(say("two"));
    check(world.command(abort()), ["ack 4", "give 1 interrupt", "done 4"]);
    check(
        world.told(1, Told::TurnEnded(None)),
        ["status 1 running", "give 1 message two", "status 1 running busy"],
    );
    check(world.again(4, abort()), ["ack 4"]);
}

#[test]
fn an_abort_that_is_not_heard_ends_the_process() {
    let mut world = World::busy();
    world.command(abort());
    check(world.later(15 * SECOND), []);
    check(
        world.later(1),
        ["system: the CLI did not end its turn and was ended itself", "end 1"],
    );
    check(
        world.exited(1, exit(137)),
        [
            "stdout: the turn was lost: it was ended",
            "status 1 running: the turn was lost: it was ended",
        ],
    );
}

#[test]
fn an_abort_takes_back_what_waits_for_its_cli() {
    let mut world = World::ready();
    world.exited(1, exit(1));
    world.command(say("one"));
    let why = "the turn was ended before it began";
    check(
        world.command(abort()),
        [
            "ack 3",
            &format!("stdout: {why}"),
            &format!("done 2: interrupted {why}"),
            "done 3",
        ],
    );
    check(world.told(2, Told::Ready), []);
}

#[test]
fn a_held_session_gets_no_message_and_a_turn_in_it_can_be_ended() {
    let mut world = World::busy();
    let session_id = session(1);
    check(
        world.command(Command::PauseSession { session_id }),
        ["ack 3", "hold 1 true", "status 1 paused busy", "done 3"],
    );
    check(world.command(say("two")), ["ack 4"]);
    check(
        world.command(abort()),
        ["ack 5", "hold 1 false", "give 1 interrupt", "done 5"],
    );
    check(world.told(1, Told::TurnEnded(None)), ["status 1 paused", "hold 1 true"]);
    check(
        world.command(Command::ResumeSession { session_id }),
        [
            "ack 6",
            "hold 1 false",
            "status 1 running",
            "done 6",
            "give 1 message two",
            "status 1 running busy",
        ],
    );
}

#[test]
fn questions_are_named_for_their_process_and_told_again() {
    let mut world = World::busy();
    let asked = Told::Asked {
        request_id: "q".to_owned(),
        tool_name: "Bash".to_owned(),
        input: Value::Null,
    };
    check(world.told(1, asked.clone()), ["asks 1-1-q Bash"]);
    check(
        world.connected(&[(1, 1, true)]),
        ["status 1 running busy", "asks 1-1-q Bash"],
    );
    let answer = |request_id: &str| Command::PermissionResponse {
        session_id: session(1),
        request_id: request_id.to_owned(),
        behavior: Behavior::Deny,
        tool_name: "Bash".to_owned(),
        message: Some("no".to_owned()),
    };
    check(world.command(answer("1-1-q")), ["ack 3", "give 1 answer q false no"]);
    check(world.taken(1, None), ["done 3"]);
    check(
        world.command(answer("1-1-q")),
        ["ack 4", "done 4: not_found nobody waits for this answer any more"],
    );
    world.told(1, asked.clone());
    check(world.told(1, Told::Withdrawn("q".to_owned())), ["asks no more 1-1-q"]);
    world.told(1, asked);
    let lost = "the turn was lost: the CLI ended with exit code 1";
    check(
        world.exited(1, exit(1)),
        [
            "asks no more 1-1-q",
            &format!("stdout: {lost}"),
            &format!("status 1 running: {lost}"),
        ],
    );
}

#[test]
fn a_setting_is_changed_at_once_or_with_the_next_process_or_not_at_all() {
    let mut world = World::ready();
    check(world.command(model("a")), ["ack 2", "give 1 model a"]);
    check(world.taken(1, None), ["done 2"]);
    world.command(model("b"));
    check(world.taken(1, Some(Refused::Restart)), ["done 3", "end 1"]);
    check(world.exited(1, exit(143)), []);
    check(world.command(say("one")), ["ack 4", "spawn 2 new b"]);
    world.told(2, Told::Ready);
    world.taken(2, None);
    world.command(model("c"));
    check(
        world.taken(2, Some(Refused::Restart)),
        ["done 5: unsupported the CLI cannot change that in the middle of a conversation"],
    );
    world.told(2, Told::Conversation("x".to_owned()));
    world.command(model("d"));
    check(world.taken(2, Some(Refused::Restart)), ["done 6"]);
    check(world.told(2, Told::TurnEnded(None)), ["status 1 running x", "end 2"]);
    world.exited(2, exit(143));
    check(
        world.command(model("-x")),
        ["ack 7", "done 7: invalid `-x` is not a name"],
    );
    check(world.command(say("two")), ["ack 8", "spawn 3 x d"]);
}

#[test]
fn a_setting_that_the_cli_rejects_later_is_taken_back() {
    let mut world = World::ready();
    world.command(model("good"));
    world.taken(1, None);
    world.command(model("bad"));
    world.taken(1, None);
    check(
        world.told(1, Told::Rejected("no such model".to_owned())),
        ["system: no such model"],
    );
    world.exited(1, exit(1));
    check(world.command(say("one")), ["ack 4", "spawn 2 new good"]);
}

#[test]
fn a_conversation_that_cannot_be_gone_on_with_is_said_to_be_lost() {
    let mut world = World::busy();
    world.exited(1, exit(3));
    let lost = "system: the CLI cannot go on with its conversation: it begins a new one";
    check(world.command(say("two")), ["ack 3", lost, "spawn 2 new -"]);
}

#[test]
fn a_conversation_that_is_gone_does_not_fail_every_message() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    world.exited(1, exit(3));
    check(world.command(say("two")), ["ack 3", "spawn 2 c -"]);
    let gone = Told::NotResumed("no such conversation".to_owned());
    check(world.told(2, gone), ["system: no such conversation", "end 2"]);
    check(
        world.exited(2, exit(1)),
        [
            "system: the CLI cannot go on with its conversation: it begins a new one",
            "spawn 3 new -",
        ],
    );
    check(
        world.told(3, Told::Ready),
        ["give 3 message two", "status 1 running busy"],
    );
}

#[test]
fn a_session_that_begins_with_a_conversation_that_is_gone_is_over() {
    let mut world = World::new();
    let mut start = start(1, 1);
    start.resume_id = Some("c".to_owned());
    world.command(Command::StartSession(start));
    let words = world.told(1, Told::NotResumed("gone".to_owned()));
    assert_eq!(words[2..4], ["done 1: failed gone", "status 1 error c: gone"]);
}

#[test]
fn an_idle_cli_is_ended_and_the_session_goes_on() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    check(
        world
            .later(31 * 60 * SECOND)
            .into_iter()
            .filter(|word| word.starts_with("end"))
            .collect(),
        [],
    );
    world.told(1, Told::TurnEnded(None));
    check(
        world
            .later(30 * 60 * SECOND)
            .into_iter()
            .filter(|word| word.starts_with("end"))
            .collect(),
        [],
    );
    check(
        world
            .later(1)
            .into_iter()
            .filter(|word| word.starts_with("end"))
            .collect(),
        ["end 1"],
    );
    check(world.exited(1, exit(143)), []);
    let words = world.command(say("two"));
    assert_eq!(words.last().unwrap(), "spawn 2 c -");
}

#[test]
fn tokens_are_asked_for_ahead_of_their_end_while_a_cli_runs() {
    let mut world = World::ready();
    check(world.later(9_909 * SECOND), []);
    check(world.later(SECOND), ["wants a token 1"]);
    check(world.later(9 * SECOND), []);
    check(world.later(SECOND), ["wants a token 1"]);
    let token = Event::Token {
        session_id: session(1),
        token: "next".to_owned(),
        expires_at_s: 10_220,
    };
    check(world.handle(token), ["token next until 10220000"]);
    check(world.later(SECOND), []);
    world.exited(1, exit(1));
    check(world.later(9_999 * SECOND), []);
    check(world.command(say("one")), ["ack 2", "wants a token 1", "spawn 2 new -"]);
}

#[test]
fn an_agent_that_was_killed_tells_what_was_lost_and_goes_on_with_what_waits() {
    let mut world = World::busy();
    world.told(1, Told::Conversation("c".to_owned()));
    world.command(say("two"));
    world.crash();
    check(world.later(SECOND), []);
    let lost = "the turn was lost: the agent was started again";
    check(
        world.connected(&[(1, 1, true)]),
        [
            &format!("stdout: {lost}"),
            &format!("status 1 running c: {lost}"),
            "status 1 running c",
            "wants a token 1",
            "spawn 2 c -",
        ],
    );
}

#[test]
fn a_start_that_was_cut_short_is_made_up_for() {
    let mut world = World::new();
    world.command(Command::StartSession(start(1, 1)));
    world.crash();
    check(world.connected(&[(1, 1, true)]), ["wants a token 1", "spawn 2 new -"]);
    check(world.told(2, Told::Ready), ["status 1 running", "done 1"]);
}

#[test]
fn what_the_server_does_not_know_is_ended_and_forgotten() {
    for known in [&[][..], &[(1, 1, false)], &[(1, 0, true)]] {
        let mut world = World::busy();
        check(world.connected(known), ["end 1"]);
        check(world.exited(1, exit(143)), ["close", "forget"]);
        check(
            world.command(say("hello")),
            ["ack 3", "done 3: not_found this machine does not have the session"],
        );
        check(world.command(stop()), ["ack 4", "done 4"]);
    }
}

#[test]
fn a_stop_that_meets_a_new_connection_is_done_all_the_same() {
    let mut world = World::busy();
    check(world.connected(&[(1, 1, false)]), ["end 1"]);
    check(world.command(stop()), ["ack 3"]);
    check(world.exited(1, exit(143)), ["done 3", "close", "forget"]);
}

#[test]
fn an_agent_that_ends_keeps_its_sessions() {
    let mut world = World::busy();
    check(world.handle(Event::Shutdown), ["end 1"]);
    assert!(!world.supervisor.is_quiet());
    let lost = "the turn was lost: the agent is ending";
    check(
        world.exited(1, exit(143)),
        [&format!("stdout: {lost}"), &format!("status 1 running: {lost}")],
    );
    assert!(world.supervisor.is_quiet());
    check(
        world.command(say("two")),
        ["ack 3", "done 3: failed the agent is about to end"],
    );
    assert_eq!(world.disk.len(), 1);
}

#[test]
fn nothing_secret_is_on_the_disk() {
    let world = World::busy();
    assert!(
        !serde_json::to_string(&world.disk[&session(1)])
            .unwrap()
            .contains("secret")
    );
}
