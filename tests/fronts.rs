//! Programs in front of a cluster: a load balancer that finds the leader, and a browser with the page of a node.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Instant;
use support::{
    BackgroundProgram, ChildGuard, Cluster, WAIT_TIMEOUT, command_if_installed, reserve_ports, run, wait_until,
};

mod support;

/// A cluster of three nodes with HTTP gateways and a leader.
fn http_cluster() -> Cluster {
    let mut cluster = Cluster::prepare(3);
    let base_port = reserve_ports(3);
    cluster.http_addresses = (base_port..base_port + 3).map(|port| format!("127.0.0.1:{port}")).collect();
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    cluster
}

/// Starts haproxy in front of the HTTP gateways. It polls `/leader` of each node, and routes requests to the leader.
fn start_http_balancer(cluster: &Cluster, port: u16) -> Option<BackgroundProgram> {
    let servers =
        cluster.http_addresses.iter().zip(1..).map(|(http_address, id)| format!("  server n{id} {http_address}\n"));
    let config = format!(
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 20s\n  timeout server 20s\n\
         frontend all\n  bind 127.0.0.1:{port}\n  default_backend nodes\n\
         backend nodes\n  option httpchk\n  http-check send meth GET uri /leader ver HTTP/1.1 hdr Host localhost\n  \
         http-check expect status 200\n  default-server check inter 100ms fall 1 rise 1 on-marked-down \
         shutdown-sessions\n{}",
        servers.collect::<String>()
    );
    let config_path = cluster.directory.path().join("haproxy.cfg");
    std::fs::write(&config_path, config).unwrap();
    let mut command = command_if_installed("haproxy")?;
    Some(BackgroundProgram::start(cluster.directory.path(), "haproxy", command.arg("-db").arg("-f").arg(config_path)))
}

/// Puts a key through the balancer. Returns whether the write was acknowledged.
fn put(port: u16, key: &str) -> bool {
    let url = format!("http://127.0.0.1:{port}/kv/{key}");
    let common_args =
        ["-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", "--data-binary", "noodles"];
    let output = run(command_if_installed("curl").unwrap().args(common_args).arg(url));
    output.out.starts_with('2')
}

#[test]
fn http_balancer_follows_each_new_leader() {
    let mut cluster = http_cluster();
    let balancer_port = reserve_ports(1);
    let (Some(mut balancer), Some(_)) = (start_http_balancer(&cluster, balancer_port), command_if_installed("curl"))
    else {
        return;
    };
    let mut acknowledged_count = 0;
    for round in 0..4 {
        let mut attempts = 0;
        let put_succeeds = || {
            attempts += 1;
            put(balancer_port, &format!("{round}-{attempts}")).then_some(())
        };
        wait_until("a write is acknowledged", put_succeeds, || cluster.logs());
        acknowledged_count += 1;
        for n in 0..20 {
            acknowledged_count += usize::from(put(balancer_port, &format!("{round}-more-{n}")));
        }
        let leader = cluster.wait_for_leader();
        cluster.kill(leader);
        wait_until("another node leads", || cluster.leader_among(0..3).filter(|now| *now != leader), || cluster.logs());
        cluster.spawn(leader);
    }
    wait_until("a write is acknowledged", || put(balancer_port, "last").then_some(()), || cluster.logs());
    assert!(balancer.is_running());
    let output = cluster.run(&["scan", "--limit", "1000"]);
    let stored_count = output.out.lines().filter(|line| line.ends_with("\tnoodles")).count();
    assert!(
        stored_count > acknowledged_count,
        "only {stored_count} keys exist, but {acknowledged_count} writes and the last one were acknowledged"
    );
}

/// Starts haproxy in front of the Redis gateways, with the lines of docs/redis.md and the addresses of the cluster.
fn start_redis_balancer(cluster: &Cluster, port: u16) -> Option<BackgroundProgram> {
    let redis_page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/redis.md")).unwrap();
    let backend_lines =
        redis_page.lines().skip_while(|line| *line != "    backend redis").take_while(|line| !line.is_empty());
    let mut config = format!(
        "defaults\n  mode tcp\n  timeout client 20s\n  timeout server 20s\n  timeout connect 1s\n\
         frontend all\n  bind 127.0.0.1:{port}\n  default_backend redis\n{}\n",
        backend_lines.map(|line| format!("{}\n", line.trim_start())).collect::<String>()
    );
    let documented_addresses = ["a:7501 port 7601", "b:7501 port 7601", "c:7501 port 7601"];
    for (documented_address, (redis_address, http_address)) in
        documented_addresses.iter().zip(cluster.redis_addresses.iter().zip(&cluster.http_addresses))
    {
        assert!(config.contains(documented_address), "docs/redis.md names {documented_address}");
        config = config
            .replace(documented_address, &format!("{redis_address} port {}", http_address.rsplit_once(':').unwrap().1));
    }
    let config_path = cluster.directory.path().join("haproxy.cfg");
    std::fs::write(&config_path, config).unwrap();
    let mut command = command_if_installed("haproxy")?;
    Some(BackgroundProgram::start(cluster.directory.path(), "haproxy", command.arg("-db").arg("-f").arg(config_path)))
}

/// Increments the counter through the balancer, on one connection for as long as it lasts. Returns the new value, if a
/// reply arrives.
fn increment(port: u16, connection: &mut Option<BufReader<TcpStream>>) -> Option<u64> {
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
            stream.set_read_timeout(Some(WAIT_TIMEOUT)).ok()?;
            BufReader::new(stream)
        }
    };
    stream.get_mut().write_all(b"INCR n\r\n").ok()?;
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let number = line.strip_prefix(':')?.trim_end().parse().ok()?;
    *connection = Some(stream);
    Some(number)
}

#[test]
fn redis_balancer_of_docs_follows_each_new_leader() {
    let mut cluster = Cluster::prepare(3);
    let base_port = reserve_ports(6);
    let address = |n: u16| format!("127.0.0.1:{}", base_port + n);
    (cluster.redis_addresses, cluster.http_addresses) = ((0..3).map(address).collect(), (3..6).map(address).collect());
    (0..3).for_each(|n| cluster.spawn(n));
    cluster.wait_for_leader();
    let port = reserve_ports(1);
    let Some(mut balancer) = start_redis_balancer(&cluster, port) else { return };
    let (mut connection, mut acknowledged, mut last) = (None, 0, 0);
    for _ in 0..4 {
        for _ in 0..20 {
            let number =
                wait_until("an increment is acknowledged", || increment(port, &mut connection), || cluster.logs());
            assert!(number > last, "the counter is {number} after an increment, but was {last} before");
            (acknowledged, last) = (acknowledged + 1, number);
        }
        let leader = cluster.wait_for_leader();
        cluster.kill(leader);
        let killed_at = Instant::now();
        last = wait_until("an increment is acknowledged", || increment(port, &mut connection), || cluster.logs());
        acknowledged += 1;
        println!("first increment {} ms after the crash of a leader", killed_at.elapsed().as_millis());
        cluster.spawn(leader);
    }
    assert!(balancer.is_running());
    assert!(last >= acknowledged, "{acknowledged} increments were acknowledged, the counter is {last}");
}

/// A browser controlled through WebDriver.
struct Browser {
    /// The base URL of the WebDriver server.
    driver_url: String,
    session_id: String,
    /// The driver process; dropping it ends the browser.
    _process: ChildGuard,
}

impl Browser {
    /// Opens a window as wide as a phone's. Returns `None` where no browser is installed.
    fn open() -> Option<Browser> {
        let (mut command, _) = (
            command_if_installed("chromedriver")?,
            command_if_installed("chromium").and(command_if_installed("curl"))?,
        );
        let port = reserve_ports(1);
        command.arg(format!("--port={port}")).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let process = ChildGuard::start(&mut command);
        let driver_url = format!("http://127.0.0.1:{port}");
        let browser_arguments =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=390,844"];
        let capabilities =
            json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": { "args": browser_arguments } } } });
        let try_open_session = || {
            Some(
                send_webdriver_request(&format!("{driver_url}/session"), &capabilities)["sessionId"]
                    .as_str()?
                    .to_owned(),
            )
        };
        let session_id = wait_until("the driver opens a browser", try_open_session, String::new);
        Some(Browser { driver_url, session_id, _process: process })
    }

    fn send_command(&self, path: &str, body: &Value) -> Value {
        send_webdriver_request(&format!("{}/session/{}/{path}", self.driver_url, self.session_id), body)
    }

    fn open_page(&self, url: &str) {
        self.send_command("url", &json!({ "url": url }));
    }

    fn evaluate(&self, script: &str) -> Value {
        self.send_command("execute/sync", &json!({ "script": format!("return {script}"), "args": [] }))
    }

    fn visible_text(&self) -> String {
        self.evaluate("document.body.innerText").as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let url = format!("{}/session/{}", self.driver_url, self.session_id);
        // Asks the driver to close its browser. The driver may have ended already.
        let _driver_may_have_ended =
            command_if_installed("curl").map(|mut curl| run(curl.args(["-s", "-m", "10", "-X", "DELETE"]).arg(url)));
    }
}

/// Sends a WebDriver request. Returns the `value` of the response, or null if there is no response.
fn send_webdriver_request(url: &str, body: &Value) -> Value {
    let common_args = ["-s", "-m", "60", "-H", "Content-Type: application/json", "--data-binary"];
    let output = run(command_if_installed("curl").unwrap().args(common_args).arg(body.to_string()).arg(url));
    serde_json::from_str::<Value>(&output.out).map_or(Value::Null, |answer| answer["value"].clone())
}

#[test]
fn page_shows_new_leader_and_loss_of_the_node_that_serves_it() {
    let mut cluster = http_cluster();
    let Some(browser) = Browser::open() else { return };
    let leader = cluster.wait_for_leader();
    let observed_node = (leader + 1) % 3;
    assert_eq!(cluster.run(&["put", "lunch", "noodles"]).code, Some(0));
    browser.open_page(&format!("http://{}/", cluster.http_addresses[observed_node]));
    let page_shows = |texts: &[&str]| {
        let text = browser.visible_text();
        texts.iter().all(|text_part| text.contains(text_part)).then_some(())
    };
    let logs = |cluster: &Cluster| format!("{}\n{}", browser.visible_text(), cluster.logs());
    let expected_texts = [
        format!("drave · node {}", observed_node + 1),
        format!("node {} leads", leader + 1),
        "commits a second".to_owned(),
        "follower".to_owned(),
    ];
    let expected: Vec<&str> =
        expected_texts.iter().map(String::as_str).chain(cluster.addresses.iter().map(String::as_str)).collect();
    wait_until("the page shows the cluster", || page_shows(&expected), || logs(&cluster));
    // The page needs no horizontal scrolling on a phone.
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), json!(true));
    assert_eq!(
        browser.evaluate("performance.getEntriesByType('resource').every(r => r.name.startsWith(location.origin))"),
        json!(true)
    );

    cluster.kill(leader);
    let next_leader =
        wait_until("another node leads", || cluster.leader_among(0..3).filter(|now| *now != leader), || cluster.logs());
    let new_leader_text = format!("node {} leads", next_leader + 1);
    wait_until("the page shows the new leader", || page_shows(&[&new_leader_text]), || logs(&cluster));
    cluster.kill(observed_node);
    wait_until(
        "the page reports that its node is lost",
        || page_shows(&["This page has lost its node"]),
        || logs(&cluster),
    );
    cluster.spawn(observed_node);
    wait_until("the page reports that its node restarted", || page_shows(&["was started again"]), || logs(&cluster));
    assert!(page_shows(&["This page has lost its node"]).is_none());
}

/// After a wrong password the page reports the wrong password and no other error. It polls once a second, however often
/// the form is submitted.
#[test]
fn page_asks_for_password_and_accepts_unicode() {
    const PASSWORD: &str = "nüdeln → 麺";
    let mut cluster = Cluster::prepare(1);
    let password_path = cluster.directory.path().join("password");
    std::fs::write(&password_path, PASSWORD).unwrap();
    cluster.extra_args.extend(["--password-file", password_path.to_str().unwrap()].map(str::to_owned));
    cluster.http_addresses = vec![format!("127.0.0.1:{}", reserve_ports(1))];
    cluster.spawn(0);
    cluster.wait_for_leader();
    let Some(browser) = Browser::open() else { return };
    browser.open_page(&format!("http://{}/", cluster.http_addresses[0]));
    let page_shows = |text: &str| {
        let event = format!("the page shows {text:?}");
        wait_until(&event, || browser.visible_text().contains(text).then_some(()), || browser.visible_text());
    };
    let submit_password = |password: &str| {
        let fill_in_script =
            format!("const by = (id) => document.getElementById(id); by('password').value = {};", json!(password));
        browser.evaluate(&format!(
            "(() => {{ {fill_in_script} by('ask').requestSubmit(); return window.times?.length; }})()"
        ))
    };
    page_shows("This node asks for its password.");
    submit_password("noodles");
    page_shows("That is not its password.");
    submit_password("noo\u{1}dles");
    page_shows("That password cannot be sent");
    assert!(!browser.visible_text().contains("lost its node"));

    cluster.kill(0);
    let record_polls_script = "window.times = []; const plain = window.fetch; \
                 window.fetch = (...all) => { window.times.push(performance.now()); return plain(...all); };";
    browser.evaluate(&format!("(() => {{ {record_polls_script} }})()"));
    submit_password("noodles");
    page_shows("This page has lost its node");
    submit_password("noodles");
    let first_poll_number = submit_password("noodles").as_u64().unwrap() as usize;
    let poll_times = || -> Vec<f64> { serde_json::from_value(browser.evaluate("window.times")).unwrap() };
    let poll_times = wait_until(
        "the page keeps polling",
        || Some(poll_times()).filter(|poll_times| poll_times.len() > first_poll_number + 4),
        || browser.visible_text(),
    );
    // The page sends one request a second: a timer never fires early, except that browsers round the time.
    let early_poll = poll_times[first_poll_number - 1..].windows(2).find(|pair| pair[1] - pair[0] < 900.0);
    assert_eq!(early_poll, None, "{poll_times:?}");

    cluster.spawn(0);
    submit_password(PASSWORD);
    page_shows("drave · node 1");
    page_shows("commits a second");
}
