use ace_policies::session::Report;
use uuid::Uuid;

use super::*;

const ONE: SessionId = SessionId(Uuid::from_u128(1));
const TWO: SessionId = SessionId(Uuid::from_u128(2));

fn done(id: u128) -> FromAgent {
    FromAgent::Done {
        command_id: Uuid::from_u128(id),
        result: None,
        error: None,
    }
}

fn status(session_id: SessionId, state: Report) -> FromAgent {
    FromAgent::Status {
        session_id,
        run: 1,
        state,
        busy: false,
        resume_id: None,
        message: None,
    }
}

fn wish(session_id: SessionId) -> FromAgent {
    FromAgent::TokenRequest { session_id, run: 1 }
}

fn question() -> FromAgent {
    FromAgent::Approval {
        session_id: ONE,
        run: 1,
        request_id: "a".to_owned(),
        tool_name: "Bash".to_owned(),
        input: serde_json::Value::Null,
    }
}

fn withdrawal() -> FromAgent {
    FromAgent::ApprovalCancelled {
        session_id: ONE,
        request_id: "a".to_owned(),
    }
}

fn with(messages: impl IntoIterator<Item = FromAgent>) -> Words {
    let mut words = Words::default();
    messages.into_iter().for_each(|message| say(&mut words, message));
    words
}

fn say(words: &mut Words, message: FromAgent) {
    words.push(Said { message, after: None });
}

/// Sends so many words, or all.
fn send(words: &mut Words, count: usize) -> Vec<FromAgent> {
    let now = Instant::now();
    std::iter::from_fn(|| words.next(now, |_, _| true))
        .take(count)
        .collect()
}

#[test]
fn a_cut_loses_nothing_whether_it_was_sent_or_not() {
    let mut words = with((0..500).map(done));
    send(&mut words, 4);
    let mark = words.mark();
    send(&mut words, 6);
    words.confirm(mark);
    words.again();
    assert_eq!(send(&mut words, 1000), (4..500).map(done).collect::<Vec<_>>());
    words.confirm(words.mark());
    words.again();
    assert!(send(&mut words, 1000).is_empty() && !words.is_unconfirmed());
}

#[test]
fn short_connections_send_each_word_once_and_none_is_confirmed_before_it_is_sent() {
    let mut words = with((0..8).map(done));
    for _ in 0..MAX_ATTEMPTS - 1 {
        words.again();
        assert_eq!(send(&mut words, 1000).len(), 8);
    }
    words.again();
    words.confirm(words.mark());
    assert_eq!(
        send(&mut words, 1000).len(),
        8,
        "they wait, and were not sent on this connection"
    );
}

#[test]
fn a_word_that_ends_every_connection_is_given_up() {
    let mut words = with([done(1)]);
    let told = (0..20).take_while(|_| {
        words.again();
        !send(&mut words, 1).is_empty()
    });
    assert_eq!(told.count(), MAX_ATTEMPTS as usize);
}

#[test]
fn an_hour_without_a_server_leaves_what_there_is_to_say_and_no_more() {
    let mut words = Words::default();
    for _ in 0..360 {
        for session in [ONE, TWO] {
            say(&mut words, wish(session));
            say(&mut words, status(session, Report::Paused));
            say(&mut words, status(session, Report::Running));
        }
        say(&mut words, question());
        say(&mut words, withdrawal());
    }
    say(&mut words, question());
    say(&mut words, question());
    let expected = [
        wish(ONE),
        status(ONE, Report::Running),
        wish(TWO),
        status(TWO, Report::Running),
        question(),
    ];
    assert_eq!(send(&mut words, 1000), expected);
}

#[test]
fn what_was_heard_of_a_question_is_withdrawn_in_its_order() {
    let mut words = with([question()]);
    send(&mut words, 1);
    say(&mut words, withdrawal());
    words.again();
    assert_eq!(send(&mut words, 10), [question(), withdrawal()]);
}

#[test]
fn a_status_that_was_sent_gives_way_to_a_later_one_and_a_wish_is_not_repeated() {
    let mut words = with([status(ONE, Report::Running), wish(ONE), done(1)]);
    send(&mut words, 3);
    say(&mut words, status(ONE, Report::Stopped));
    words.again();
    assert_eq!(send(&mut words, 10), [done(1), status(ONE, Report::Stopped)]);
}

#[test]
fn words_wait_for_their_output_in_order_while_others_pass() {
    let (now, mut words) = (Instant::now(), Words::default());
    let mut after = |message, session, seq| {
        let after = Some((session, seq));
        words.push(Said { message, after });
    };
    after(question(), ONE, 5);
    after(status(ONE, Report::Running), ONE, 4);
    after(status(TWO, Report::Running), TWO, 1);
    let is_out = |session, seq| session == TWO || seq <= 4;
    assert_eq!(words.next(now, is_out), Some(status(TWO, Report::Running)));
    assert_eq!(words.next(now, is_out), None);
    assert_eq!(words.deadline(), Some(now + HOLD));
    assert_eq!(words.next(now, |_, seq| seq <= 5), Some(question()));
    assert_eq!(words.next(now, |_, _| false), None);
    assert_eq!(words.next(now + HOLD, |_, _| false), Some(status(ONE, Report::Running)));
}
