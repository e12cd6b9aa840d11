"""What callers with limits have used, of all workers: counted in the supervisor, which all of them ask.

There, because it outlives every worker: no limit begins anew when a worker is killed or replaced. A request of such a
caller waits for the answer once, before it is served; no event of a stream does.

* `questions`: what a worker asks the supervisor over their channel, and the answers
* `shared_account`: the account of a caller as a worker has it: it asks before it lets a request or a follower in
* `sums`: the accounts in the supervisor, and what each worker holds of them
"""
