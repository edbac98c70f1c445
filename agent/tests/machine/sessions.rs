//! Sessions on a machine, with CLIs that behave and CLIs that do not.

use std::{fs, time::Duration};

use crate::world::{Machine, kill};
use ace_policies::{
    session::Report,
    wire::{Behavior, Command, FailureCode, FromAgent, Stream},
};

pub async fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.start(&[]).await;
    machine.session("fake").await.unwrap();
    machine
}

#[tokio::test]
async fn turns_follow_one_another_in_one_process_with_a_clean_environment() {
    let mut machine = machine().await;
    assert!(machine.turn("one").await.contains("turn 1: one"));
    assert!(machine.turn("two").await.contains("turn 2: two"));
    let environment = machine.turn("environment").await;
    assert!(environment.contains("FAKE_URL") && environment.contains("http://127.0.0.1:"));
    assert!(environment.contains("acel_"));
    for secret in ["acea_secret", "proxy-token", "OPENACE", "CARGO"] {
        assert!(!environment.contains(secret), "{secret} in {environment}");
    }
    machine.stop_session().await;
    machine.nobody_is_left().await;
    assert_eq!(machine.reports(), [Report::Running, Report::Stopped]);
}

#[tokio::test]
async fn a_cli_that_is_missing_or_cannot_run_there_is_said_so() {
    let mut machine = Machine::new();
    machine.start(&[]).await;
    let mut refused = async |cli: &str, path: &str, run: i64| {
        let mut start = machine.start_of(cli, run);
        if !path.is_empty() {
            start.project_path = path.to_owned();
        }
        let failure = machine.command(Command::StartSession(start)).await.unwrap_err();
        (failure.code, failure.message)
    };
    assert_eq!(
        refused("nothing-like-it", "", 1).await.1,
        "this machine does not know the CLI `nothing-like-it`"
    );
    let openclaw = refused("openclaw", "", 2).await.1;
    assert!(openclaw.starts_with("OpenClaw is not installed: there is no `openclaw` in PATH; install it with"));
    let missing = refused("fake", "/no/such/place", 3).await;
    assert_eq!(
        missing,
        (
            FailureCode::NotFound,
            "the directory `/no/such/place` does not exist on this machine".to_owned()
        )
    );
    assert_eq!(
        refused("fake", "/etc/passwd", 4).await.1,
        "`/etc/passwd` is a file, not a directory"
    );
    assert_eq!(machine.reports(), [Report::Error]);
}

#[tokio::test]
async fn a_cli_that_exits_at_once_is_an_error_in_its_own_words() {
    let mut machine = Machine::new();
    fs::write(machine.project.join("exits-at-once"), "").unwrap();
    machine.start(&[]).await;
    let failure = machine.session("fake").await.unwrap_err();
    assert_eq!(
        failure.message,
        "the CLI ended with exit code 7: no licence for this machine before it was ready"
    );
    assert!(machine.text().contains("stderr: no licence for this machine"));
    machine
        .until("the report", |machine| machine.reports() == [Report::Error])
        .await;
}

#[tokio::test]
async fn garbage_passes_through_byte_by_byte() {
    let mut machine = machine().await;
    machine.turn("garbage").await;
    let lines: Vec<&[u8]> = machine.printed.iter().map(|(_, data)| data.as_slice()).collect();
    for garbage in [&b"\x1b[31mnot json\x1b[0m \xff\xfe\n"[..], b"{\"type\": \n", b"[1,2]\n"] {
        assert!(lines.contains(&garbage), "{garbage:?}");
    }
    machine.stop_session().await;
}

#[tokio::test]
async fn a_hundred_megabytes_on_one_line_are_cut_and_counted() {
    let mut machine = machine().await;
    machine.turn("huge 100").await;
    let longest = machine.printed.iter().map(|(_, data)| data.len()).max().unwrap();
    assert_eq!(longest, 1 << 20);
    assert!(matches!(machine.left_out[..], [left_out] if left_out > 98_000_000));
    let marks = machine.printed.iter().filter(|(stream, _)| *stream == Stream::System);
    assert_eq!(marks.count(), 0, "it is marked once, where it is cut for a message");
    assert!(machine.turn("after").await.contains("turn 2: after"));
    machine.stop_session().await;
}

/// What the kernel tells about the running CLI.
fn about_the_cli(machine: &Machine, what: &str) -> String {
    let processes = machine.processes();
    let cli = processes
        .iter()
        .find(|name| name.contains("fake_cli") && !name.contains(" guard "));
    let pid = cli.unwrap().split(' ').next().unwrap();
    fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap()
}

async fn until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + crate::world::PATIENCE;
    while !is_so() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_full_spool_makes_the_cli_wait_and_nothing_is_lost() {
    let mut machine = machine().await;
    let id = machine.push(machine.message("flood 3000")).await;
    // Nobody reads: the channels and the pipe are full long before the end. Then the kernel keeps the CLI in its write.
    until(|| about_the_cli(&machine, "wchan").contains("pipe_write")).await;
    machine.done(id).await.unwrap();
    machine.turn_ends(0).await;
    let lines = machine.text().matches("line ").count();
    assert_eq!(lines, 3_000);
    machine.stop_session().await;
}

#[tokio::test]
async fn a_cli_is_read_no_further_than_there_is_room_for_its_output() {
    let mut machine = machine().await;
    let id = machine.push(machine.message("flood 30000")).await;
    machine
        .until("the first line", |machine| machine.text().contains("line 0"))
        .await;
    let held = machine.hold().await;
    assert!(held.len() < 20_000, "{} lines wait for a full disk", held.len());
    held.into_iter().for_each(|up| machine.keep(up));
    machine.done(id).await.unwrap();
    machine.turn_ends(0).await;
    assert_eq!(machine.text().matches("line ").count(), 30_000);
    machine.stop_session().await;
}

#[tokio::test]
async fn a_cli_that_ignores_term_and_its_daemons_are_ended() {
    let mut machine = Machine::new();
    machine.limits.grace_ms = 300;
    fs::write(machine.project.join("ignores-term"), "").unwrap();
    machine.start(&[]).await;
    machine.session("fake").await.unwrap();
    machine.turn("daemons").await;
    assert!(machine.processes().len() >= 6, "{:?}", machine.processes());
    machine.stop_session().await;
    assert_eq!(
        machine.processes(),
        [] as [&str; 0],
        "when a stop is done, nobody is left"
    );
}

#[tokio::test]
async fn a_cli_that_dies_in_a_turn_is_reported_and_the_next_message_starts_it_with_its_conversation() {
    let mut machine = machine().await;
    machine.turn("one").await;
    let lost = machine.turn("die").await;
    assert!(
        lost.contains("the turn was lost: the CLI ended with exit code 3: out of memory"),
        "{lost}"
    );
    let arguments = machine.turn("arguments").await;
    assert!(
        arguments.contains(&format!("--resume {}", machine.session)),
        "{arguments}"
    );
    assert_eq!(machine.reports(), [Report::Running]);
    machine.stop_session().await;
}

#[tokio::test]
async fn questions_wait_and_answers_reach_the_cli_once() {
    let mut machine = machine().await;
    machine.command(machine.message("ask")).await.unwrap();
    let (request_id, tool, input) = machine.asked().await;
    assert_eq!((tool.as_str(), &input["command"]), ("Bash", &"ls".into()));
    machine.welcome(&[(machine.session, 1)]).await;
    assert_eq!(
        machine.asked().await.0,
        request_id,
        "a new connection hears of it again"
    );
    machine.answer(&request_id, Behavior::Deny).await.unwrap();
    machine.turn_ends(0).await;
    assert!(machine.text().contains("denied: not today"));
    let late = machine.answer(&request_id, Behavior::Allow).await.unwrap_err();
    assert_eq!(late.code, FailureCode::NotFound);
    machine.stop_session().await;
}

#[tokio::test]
async fn an_abort_ends_the_turn_and_not_the_session() {
    let mut machine = machine().await;
    machine.command(machine.message("wait")).await.unwrap();
    let session_id = machine.session;
    machine
        .command(Command::AbortRequest {
            session_id,
            reason: "enough".to_owned(),
        })
        .await
        .unwrap();
    machine.turn_ends(0).await;
    assert!(machine.turn("on").await.contains("turn 2: on"), "the same process");
    machine.stop_session().await;
}

#[tokio::test]
async fn held_processes_stand_still_and_go_on() {
    let mut machine = machine().await;
    let session_id = machine.session;
    machine.command(Command::PauseSession { session_id }).await.unwrap();
    until(|| about_the_cli(&machine, "stat").contains(") T ")).await;
    let waiting = machine.push(machine.message("later")).await;
    machine.command(Command::ResumeSession { session_id }).await.unwrap();
    machine.done(waiting).await.unwrap();
    machine.turn_ends(0).await;
    machine.command(Command::PauseSession { session_id }).await.unwrap();
    machine.stop_session().await;
    machine.nobody_is_left().await;
}

#[tokio::test]
async fn an_agent_that_is_started_again_goes_on_with_its_sessions() {
    let mut machine = machine().await;
    machine.turn("one").await;
    machine.command(machine.message("wait")).await.unwrap();
    machine.shut_down().await;
    assert_eq!(machine.processes(), [] as [&str; 0]);
    assert!(machine.text().contains("the turn was lost: the agent is ending"));
    let secrets = fs::read_to_string(
        machine
            .dir
            .path()
            .join(format!("state/sessions/{}/session.json", machine.session)),
    );
    assert!(!secrets.unwrap().contains("proxy-token"));

    machine.start(&[(machine.session, 1)]).await;
    let arguments = machine.turn("arguments").await;
    assert!(
        arguments.contains(&format!("--resume {}", machine.session)),
        "{arguments}"
    );
    machine.stop_session().await;
}

#[tokio::test]
async fn a_guard_that_is_killed_takes_its_cli_along_and_the_session_goes_on() {
    let mut machine = machine().await;
    machine.turn("one").await;
    let guard = machine
        .processes()
        .into_iter()
        .find(|name| name.contains(" guard -- "))
        .unwrap();
    kill(guard.split(' ').next().unwrap());
    machine.nobody_is_left().await;
    machine
        .until("the news", |machine| {
            machine.text().contains("; the next message starts it again")
        })
        .await;
    assert!(machine.turn("two").await.contains("turn 1: two"), "in a new process");
    machine.stop_session().await;
}

#[tokio::test]
async fn a_cli_without_a_row_answers_from_its_standard_output() {
    let mut machine = Machine::new();
    machine.start(&[]).await;
    machine.session("cat").await.unwrap();
    let turn = machine.turn("hello\nworld").await;
    assert!(turn.contains(r#"{"text":"hello\nworld","type":"text"}"#), "{turn}");
    assert!(turn.contains(r#""subtype":"success""#));
    assert_eq!(machine.processes(), [] as [&str; 0]);
    let files = Command::SendMessage {
        session_id: machine.session,
        content: "look".to_owned(),
        attachments: vec![ace_policies::wire::Attachment {
            name: "a.png".to_owned(),
            media_type: "image/png".to_owned(),
            data_base64: String::new(),
        }],
    };
    assert_eq!(
        machine.command(files).await.unwrap_err().message,
        "cat cannot take files"
    );
    machine.stop_session().await;
}

/// A CLI of a user's own that is started for each turn, and names its conversations by itself.
const NAMES: &str = r#"
id = "names"
executable = "sh"
driver = "one_shot"
features = ["resume"]
[args]
start = ["-c", 'read -r _; echo "{\"answer\":\"$*\",\"id\":\"c-$$\"}"', "names"]
new = ["new"]
resume = ["goes", "on", "with", "{resume_id}"]
[one_shot]
output = "json"
answer = ["/answer"]
conversation = ["/id"]
"#;

#[tokio::test]
async fn a_process_for_each_turn_goes_on_with_the_conversation_of_the_last() {
    let mut machine = Machine::new();
    machine.adapters.push(NAMES.to_owned());
    machine.start(&[]).await;
    machine.session("names").await.unwrap();
    assert!(machine.turn("one\n").await.contains(r#""result":"new""#));
    let name = machine.resume_id().unwrap();
    let turn = machine.turn("two\n").await;
    assert!(turn.contains(&format!(r#""result":"goes on with {name}""#)), "{turn}");
    machine.stop_session().await;
}

#[tokio::test]
async fn a_cli_that_is_done_by_itself_completes_the_session() {
    let mut machine = machine().await;
    machine.turn("leave").await;
    machine
        .until("the report", |machine| {
            machine.reports() == [Report::Running, Report::Completed]
        })
        .await;
    let late = machine.command(machine.message("hello?")).await.unwrap_err();
    assert_eq!(late.message, "the session has ended here");
}

#[tokio::test]
async fn a_session_that_the_server_does_not_know_is_ended() {
    let mut machine = machine().await;
    machine.turn("one").await;
    machine.welcome(&[]).await;
    machine.nobody_is_left().await;
    assert!(machine.said.iter().all(|said| !matches!(
        said,
        FromAgent::Status {
            state: Report::Stopped,
            ..
        }
    )));
}

/// Not a test: what the test below kills. It runs a session in `ACE_TEST_PROJECT` and waits for its end.
#[tokio::test]
#[ignore = "is run by another test"]
async fn as_an_agent() {
    let Ok(project) = std::env::var("ACE_TEST_PROJECT") else {
        return;
    };
    let mut machine = Machine::new();
    machine.project = project.into();
    machine.start(&[]).await;
    machine.session("fake").await.unwrap();
    machine.turn("daemons").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test]
async fn nobody_outlives_an_agent_that_is_killed_with_sessions() {
    let machine = Machine::new();
    let mut agent = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "sessions::as_an_agent", "--ignored"])
        .env("ACE_TEST_PROJECT", &machine.project)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + crate::world::PATIENCE;
    // The CLI, its guard, a child, and three daemons that have left its group.
    while machine.processes().len() < 6 {
        assert!(std::time::Instant::now() < deadline, "{:?}", machine.processes());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill(&agent.id().to_string());
    agent.wait().unwrap();
    machine.nobody_is_left().await;
}
