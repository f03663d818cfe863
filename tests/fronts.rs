//! Programs in front of a cluster: a load balancer that finds the leader, and a browser with the page of a node.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;
use support::{Beside, Cluster, Guarded, PATIENCE, installed, ports, run, until};

mod support;

/// A cluster with HTTP gateways.
fn http_cluster() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    let base = ports(3);
    cluster.webs = (base..base + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    cluster
}

/// haproxy in front of the HTTP gateways: it checks `/leader` of each node, and routes to the node that is the leader.
fn balancer(cluster: &Cluster, port: u16) -> Option<Beside> {
    let servers = cluster.webs.iter().zip(1..).map(|(web, id)| format!("  server n{id} {web}\n"));
    let words = format!(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 20s\n  timeout server 20s\n\
         frontend all\n  bind 127.0.0.1:{port}\n  default_backend nodes\n\
         backend nodes\n  option httpchk\n  http-check send meth GET uri /leader ver HTTP/1.1 hdr Host localhost\n  \
         http-check expect status 200\n  default-server check inter 100ms fall 1 rise 1 on-marked-down \
         shutdown-sessions\n{}",
        servers.collect::<String>()
    );
    let place = cluster.directory.path().join("haproxy.cfg");
    std::fs::write(&place, words).unwrap();
    let mut command = installed("haproxy")?;
    Some(Beside::start(cluster.directory.path(), "haproxy", command.arg("-db").arg("-f").arg(place)))
}

/// Puts a key through the balancer. Returns whether the write was acknowledged.
fn put(port: u16, key: &str) -> bool {
    let place = format!("http://127.0.0.1:{port}/kv/{key}");
    let always = ["-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "--data-binary", "noodles"];
    let said = run(installed("curl").unwrap().args(always).arg(place));
    said.out.starts_with('2')
}

#[test]
fn http_balancer_follows_each_new_leader() {
    let mut cluster = http_cluster();
    let port = ports(1);
    let (Some(mut balancer), Some(_)) = (balancer(&cluster, port), installed("curl")) else { return };
    let mut acknowledged = 0;
    for round in 0..4 {
        let mut tried = 0;
        let goes_through = || {
            tried += 1;
            put(port, &format!("{round}-{tried}")).then_some(())
        };
        until("a write is acknowledged", goes_through, || cluster.logs());
        acknowledged += 1;
        for n in 0..20 {
            acknowledged += usize::from(put(port, &format!("{round}-more-{n}")));
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        until("another node leads", || cluster.leader_of(0..3).filter(|now| *now != leader), || cluster.logs());
        cluster.spawn(leader);
    }
    until("a write is acknowledged", || put(port, "last").then_some(()), || cluster.logs());
    assert!(balancer.is_running());
    let said = cluster.run(&["scan", "--limit", "1000"]);
    let held = said.out.lines().filter(|line| line.ends_with("\tnoodles")).count();
    assert!(held > acknowledged, "{acknowledged} writes were acknowledged, and one more; {held} keys exist");
}

/// The lines of docs/redis.md for haproxy in front of the Redis gateways, with the addresses of that cluster.
fn redis_balancer(cluster: &Cluster, port: u16) -> Option<Beside> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md")).unwrap();
    let block = page.lines().skip_while(|line| *line != "    backend redis").take_while(|line| !line.is_empty());
    let mut words = format!(
        "defaults\n  mode tcp\n  timeout client 20s\n  timeout server 20s\n  timeout connect 1s\n\
         frontend all\n  bind 127.0.0.1:{port}\n  default_backend redis\n{}\n",
        block.map(|line| format!("{}\n", line.trim_start())).collect::<String>()
    );
    let written = ["a:7501 port 7601", "b:7501 port 7601", "c:7501 port 7601"];
    for (written, (door, web)) in written.iter().zip(cluster.doors.iter().zip(&cluster.webs)) {
        assert!(words.contains(written), "docs/redis.md names {written}");
        words = words.replace(written, &format!("{door} port {}", web.rsplit_once(':').unwrap().1));
    }
    let place = cluster.directory.path().join("haproxy.cfg");
    std::fs::write(&place, words).unwrap();
    let mut command = installed("haproxy")?;
    Some(Beside::start(cluster.directory.path(), "haproxy", command.arg("-db").arg("-f").arg(place)))
}

/// Increments the counter through the balancer, on one connection for as long as it lasts. Returns the new value, if a
/// reply arrives.
fn increment(port: u16, held: &mut Option<BufReader<TcpStream>>) -> Option<u64> {
    let mut stream = match held.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).ok()?;
            BufReader::new(stream)
        }
    };
    stream.get_mut().write_all(b"INCR n\r\n").ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let number = line.strip_prefix(':')?.trim_end().parse().ok()?;
    *held = Some(stream);
    Some(number)
}

#[test]
fn redis_balancer_of_docs_follows_each_new_leader() {
    let mut cluster = Cluster::prepare(3);
    let base = ports(6);
    let at = |n: u16| format!("127.0.0.1:{}", base + n);
    (cluster.doors, cluster.webs) = ((0..3).map(at).collect(), (3..6).map(at).collect());
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.leader();
    let port = ports(1);
    let Some(mut balancer) = redis_balancer(&cluster, port) else { return };
    let (mut held, mut acknowledged, mut last) = (None, 0, 0);
    for _ in 0..4 {
        for _ in 0..20 {
            let number = until("an increment is acknowledged", || increment(port, &mut held), || cluster.logs());
            assert!(number > last, "{number} after {last}");
            (acknowledged, last) = (acknowledged + 1, number);
        }
        let leader = cluster.leader();
        cluster.kill(leader);
        let died = Instant::now();
        last = until("an increment is acknowledged", || increment(port, &mut held), || cluster.logs());
        acknowledged += 1;
        println!("first increment {} ms after the crash of a leader", died.elapsed().as_millis());
        cluster.spawn(leader);
    }
    assert!(balancer.is_running());
    assert!(last >= acknowledged, "{acknowledged} increments were acknowledged, the counter is {last}");
}

/// A browser controlled through WebDriver.
struct Browser {
    driver: String,
    session: String,
    /// The driver process; dropping it ends the browser.
    _process: Guarded,
}

impl Browser {
    /// Opens a window as wide as a phone's. Returns `None` where no browser is installed.
    fn open() -> Option<Browser> {
        let (mut command, _) = (installed("chromedriver")?, installed("chromium").and(installed("curl"))?);
        let port = ports(1);
        command.arg(format!("--port={port}")).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let process = Guarded::start(&mut command);
        let driver = format!("http://127.0.0.1:{port}");
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=390,844"];
        let wish = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": arguments } } } });
        let begun = || Some(ask(&format!("{driver}/session"), &wish)["sessionId"].as_str()?.to_owned());
        let session = until("a browser", begun, String::new);
        Some(Browser { driver, session, _process: process })
    }

    fn command(&self, what: &str, words: &Value) -> Value {
        ask(&format!("{}/session/{}/{what}", self.driver, self.session), words)
    }

    fn go(&self, place: &str) {
        self.command("url", &json!({ "url": place }));
    }

    fn evaluate(&self, script: &str) -> Value {
        self.command("execute/sync", &json!({ "script": format!("return {script}"), "args": [] }))
    }

    /// The visible text of the page.
    fn visible_text(&self) -> String {
        self.evaluate("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let place = format!("{}/session/{}", self.driver, self.session);
        // The driver closes its browser, if it still can.
        let _ended_or_gone =
            installed("curl").map(|mut curl| run(curl.args(["-s", "-m", "10", "-X", "DELETE"]).arg(place)));
    }
}

/// Sends a WebDriver request. Returns the response.
fn ask(place: &str, words: &Value) -> Value {
    let always = ["-s", "-m", "60", "-H", "Content-Type: application/json", "--data-binary"];
    let said = run(installed("curl").unwrap().args(always).arg(words.to_string()).arg(place));
    serde_json::from_str::<Value>(&said.out).map_or(Value::Null, |answer| answer["value"].clone())
}

#[test]
fn page_shows_new_leader_and_loss_of_its_node() {
    let mut cluster = http_cluster();
    let Some(browser) = Browser::open() else { return };
    let leader = cluster.leader();
    let watched = (leader + 1) % 3;
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    browser.go(&format!("http://{}/", cluster.webs[watched]));
    let shows = |words: &[&str]| {
        let text = browser.visible_text();
        words.iter().all(|word| text.contains(word)).then_some(())
    };
    let logs = |cluster: &Cluster| format!("{}\n{}", browser.visible_text(), cluster.logs());
    let whole = [
        format!("drave · node {}", watched + 1),
        format!("node {} leads", leader + 1),
        "commits a second".to_owned(),
        "follower".to_owned(),
    ];
    let words: Vec<&str> =
        whole.iter().map(String::as_str).chain(cluster.addresses.iter().map(String::as_str)).collect();
    until("the page shows the cluster", || shows(&words), || logs(&cluster));
    // The page needs no horizontal scrolling on a phone.
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), json!(true));
    assert_eq!(
        browser.evaluate("performance.getEntriesByType('resource').every(r => r.name.startsWith(location.origin))"),
        json!(true)
    );

    cluster.kill(leader);
    let next = until("another node leads", || cluster.leader_of(0..3).filter(|now| *now != leader), || cluster.logs());
    let tells = format!("node {} leads", next + 1);
    until("the page shows the new leader", || shows(&[&tells]), || logs(&cluster));
    cluster.kill(watched);
    until("the page reports that its node is lost", || shows(&["This page has lost its node"]), || logs(&cluster));
    cluster.spawn(watched);
    until("the page reports that its node restarted", || shows(&["was started again"]), || logs(&cluster));
    assert!(shows(&["This page has lost its node"]).is_none());
}

/// For a wrong password the page shows that and no other error, and it keeps a single polling loop, however often the
/// form is submitted.
#[test]
fn page_asks_for_password_and_accepts_unicode() {
    const PASSWORD: &str = "nüdeln → 麺";
    let mut cluster = Cluster::prepare(1);
    let place = cluster.directory.path().join("password");
    std::fs::write(&place, PASSWORD).unwrap();
    cluster.words.extend(["--password-file", place.to_str().unwrap()].map(str::to_owned));
    cluster.webs = vec![format!("127.0.0.1:{}", ports(1))];
    cluster.spawn(0);
    cluster.leader();
    let Some(browser) = Browser::open() else { return };
    browser.go(&format!("http://{}/", cluster.webs[0]));
    let shows = |words: &str| {
        let what = format!("the page shows {words:?}");
        until(&what, || browser.visible_text().contains(words).then_some(()), || browser.visible_text());
    };
    let submit = |password: &str| {
        let fields =
            format!("const by = (id) => document.getElementById(id); by('password').value = {};", json!(password));
        browser.evaluate(&format!("(() => {{ {fields} by('ask').requestSubmit(); return window.times?.length; }})()"))
    };
    shows("This node asks for its password.");
    submit("noodles");
    shows("That is not its password.");
    submit("noo\u{1}dles");
    shows("That password cannot be sent");
    assert!(!browser.visible_text().contains("lost its node"));

    cluster.kill(0);
    let count = "window.times = []; const plain = window.fetch; \
                 window.fetch = (...all) => { window.times.push(performance.now()); return plain(...all); };";
    browser.evaluate(&format!("(() => {{ {count} }})()"));
    submit("noodles");
    shows("This page has lost its node");
    submit("noodles");
    let from = submit("noodles").as_u64().unwrap() as usize;
    let times = || -> Vec<f64> { serde_json::from_value(browser.evaluate("window.times")).unwrap() };
    let times = until(
        "the page keeps polling",
        || Some(times()).filter(|times| times.len() > from + 4),
        || browser.visible_text(),
    );
    // One request a second: a timer never fires early, apart from the browser's rounding.
    let often = times[from - 1..].windows(2).find(|two| two[1] - two[0] < 900.0);
    assert_eq!(often, None, "{times:?}");

    cluster.spawn(0);
    submit(PASSWORD);
    shows("drave · node 1");
    shows("commits a second");
}
