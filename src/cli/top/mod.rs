//! `weir top`: the pods of a node and what they do at present.

mod state;
mod view;

use std::{
    io::{self, IsTerminal},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use clap::ValueEnum;
use http_body_util::BodyExt;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::sleep,
};

use self::state::{Heard, Key, Name, Sort, State};
use super::{
    Output,
    client::{Agent, event_loop},
    events::{self as sent, Events},
    line::{Colours, line},
    print, table,
};
use crate::{
    agent::{
        flows::{
            filter::{Filter, PodName},
            flow::{Flow, Lost},
        },
        overview::Overview,
    },
    error::{Context, Kind, Result},
};

/// Between two questions to the agent.
const PERIOD: Duration = Duration::from_secs(1);

/// Between two looks for what came, and so the longest that a screen is late.
const FRAME: Duration = Duration::from_millis(50);

/// Show the pods of this node by what they do: requests, failures, latency and bytes
///
/// In a terminal it is a live table: s sorts it, / filters it by name, enter looks into a pod, q ends
/// it. A row is about the requests that a pod serves (<-) or, if it serves none, makes (->). Into a
/// pipe it prints the table once.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the agent listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9920")]
    agent: Agent,
    /// What to sort by
    #[arg(long, value_enum, default_value_t = By::Rate)]
    sort: By,
    /// Only pods with this in NAMESPACE/NAME
    #[arg(long, value_name = "TEXT", default_value = "")]
    filter: String,
    /// Form of the output: json is what the agent's /api/pods answers, once
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Requests a second
    Rate,
    /// Failed requests a second
    Errors,
    /// The time within which 99 of 100 requests were answered
    P99,
    /// Bytes a second, both ways
    Bytes,
    /// Namespace and name
    Name,
}

impl From<By> for Sort {
    fn from(by: By) -> Self {
        match by {
            By::Rate => Self::Rate,
            By::Errors => Self::Errors,
            By::P99 => Self::Slow,
            By::Bytes => Self::Bytes,
            By::Name => Self::Name,
        }
    }
}

/// Shows the table until it is ended, or prints it once.
pub fn run(args: Args) -> Result<()> {
    let mut state = State::new(args.sort.into(), args.filter);
    let live = args.output == Output::Text && io::stdout().is_terminal();
    if !live {
        return once(&args.agent, &mut state, args.output);
    }
    // A wrong address is said before the screen is taken.
    event_loop()?.block_on(overview(&args.agent))?;
    let (news, come) = channel();
    let (looking, look) = watch::channel(None);
    let agent = args.agent.clone();
    thread::Builder::new()
        .name("client".into())
        .spawn(move || follow(&agent, &news, look))
        .context(Kind::Kernel, || "can't start the thread that asks the agent".into())?;
    let mut terminal =
        ratatui::try_init().context(Kind::Io, || "can't take over the terminal".into())?;
    let shown = show(&mut terminal, &mut state, &args.agent, &come, &looking);
    ratatui::restore();
    shown.context(Kind::Io, || "can't draw on the terminal".into())
}

/// What the thread that asks tells the one that draws.
enum News {
    Overview(std::result::Result<Overview, String>),
    Pod(Name, Heard),
    Stop,
}

async fn overview(agent: &Agent) -> Result<Overview> {
    let answer = agent.get("/api/pods").await?;
    let body = agent.whole(answer).await?;
    serde_json::from_slice(&body)
        .context(Kind::Io, || format!("what answers at {agent} is no agent"))
}

fn once(agent: &Agent, state: &mut State, output: Output) -> Result<()> {
    let shown = event_loop()?.block_on(async {
        // The first answer may have totals alone.
        let first = overview(agent).await?;
        if first.interval_seconds.is_some() {
            return Ok(first);
        }
        sleep(PERIOD + PERIOD / 5).await;
        overview(agent).await
    })?;
    if output == Output::Json {
        let json =
            serde_json::to_string_pretty(&shown).context(Kind::Io, || "can't write JSON".into())?;
        return print(&format!("{json}\n"));
    }
    state.take(Ok(shown));
    let heads = view::COLUMNS.iter().take(8).map(|head| (*head).to_owned()).collect();
    let rows = state.rows().into_iter().map(|pod| view::cells(pod).to_vec());
    print(&table::render(&std::iter::once(heads).chain(rows).collect::<Vec<_>>()))
}

/// Asks the agent until nobody listens any more, or a signal says to stop.
fn follow(agent: &Agent, news: &Sender<News>, mut look: watch::Receiver<Option<Name>>) {
    let Ok(runtime) = event_loop() else { return };
    runtime.block_on(async {
        let asking = async {
            while news
                .send(News::Overview(overview(agent).await.map_err(|err| err.to_string())))
                .is_ok()
            {
                sleep(PERIOD).await;
            }
        };
        let looking = async {
            loop {
                let pod = look.borrow_and_update().clone();
                select! {
                    changed = look.changed() => if changed.is_err() { return },
                    () = exchanges(agent, pod, news) => {}
                }
            }
        };
        select! { () = asking => {}, () = looking => {}, () = told_to_stop() => {} }
        // A receiver that is gone has stopped already.
        let _ = news.send(News::Stop);
    });
}

async fn told_to_stop() {
    let handlers = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hangup)) = handlers else { return std::future::pending().await };
    select! { _ = terminate.recv() => {}, _ = hangup.recv() => {} }
}

/// Tells of the exchanges of a pod; never done for none.
async fn exchanges(agent: &Agent, pod: Option<Name>, news: &Sender<News>) {
    let Some(name) = pod else { return std::future::pending().await };
    let pod = Some(PodName::new(&name.0, &name.1));
    let filter = Filter { pod, since: Some(PERIOD), ..Filter::default() };
    let tell = |heard| drop(news.send(News::Pod(name.clone(), heard)));
    match agent.get(&format!("/api/flows?{}", filter.to_query())).await {
        Ok(answer) => {
            tell(Heard::Listening(Ok(())));
            let (mut body, mut events) = (answer.into_body(), Events::default());
            while let Some(Ok(frame)) = body.frame().await {
                let piece = frame.into_data().unwrap_or_default();
                let Some(events) = events.take(&piece) else { break };
                events.iter().filter_map(heard).for_each(tell);
            }
        }
        // No agent, or no place at it: there may be one later.
        Err(why) => tell(Heard::Listening(Err(why.to_string()))),
    }
    sleep(PERIOD).await;
}

/// What an event says; nothing, if it is of a newer agent.
fn heard(event: &sent::Event) -> Option<Heard> {
    match event.name.as_str() {
        "" => {
            let flow = serde_json::from_str::<Flow>(&event.data).ok()?;
            Some(Heard::Line(line(&flow, Colours(false)).trim_end().to_owned()))
        }
        "lost" => {
            serde_json::from_str::<Lost>(&event.data).ok().map(|lost| Heard::Lost(lost.records))
        }
        _ => None,
    }
}

fn show(
    terminal: &mut DefaultTerminal,
    state: &mut State,
    agent: &Agent,
    news: &Receiver<News>,
    looking: &watch::Sender<Option<Name>>,
) -> io::Result<()> {
    let agent = agent.to_string();
    loop {
        terminal.draw(|frame| view::draw(frame, state, &agent))?;
        // All keys that are there, so that one that is held down does not lag.
        let mut wait = FRAME;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            if let Event::Key(pressed) = event::read()?
                && let Some(key) = key(pressed)
                && !state.press(key)
            {
                return Ok(());
            }
        }
        for news in news.try_iter() {
            match news {
                News::Overview(answer) => state.take(answer),
                News::Pod(name, heard) => state.hear(&name, heard),
                News::Stop => return Ok(()),
            }
        }
        let wanted = state.detail.as_ref().map(|detail| detail.name.clone());
        looking.send_if_modified(|looked_at| {
            let other = *looked_at != wanted;
            *looked_at = wanted;
            other
        });
    }
}

fn key(pressed: KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    if pressed.modifiers.contains(KeyModifiers::CONTROL) {
        return (pressed.code == KeyCode::Char('c')).then_some(Key::Interrupt);
    }
    match pressed.code {
        KeyCode::Char(c) => Some(Key::Char(c)),
        KeyCode::Up => Some(Key::Up),
        KeyCode::Down => Some(Key::Down),
        KeyCode::Enter => Some(Key::Enter),
        KeyCode::Esc => Some(Key::Escape),
        KeyCode::Backspace => Some(Key::Backspace),
        _ => None,
    }
}
