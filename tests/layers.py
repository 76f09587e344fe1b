"""Which file may import which of ours; `test_layers` reads the imports and compares."""

LLAVA_CORE = {
    "__init__": "predict generate/request",
    "errors": "",
    "command": "threads errors",
    "json_files": "errors",
    "memory": "",
    "threads": "",
    "config": "json_files errors",
    "conversation": "errors",
    "templates": "conversation errors",
    "images": "json_files pixels errors",
    "pixels": "",
    "tokens": "conversation json_files errors",
    "model/scales": "",
    "model/vision": "model/scales config errors",
    "model/projector": "config errors",
    "model/merge": "images config errors",
    "model/mpt": "",
    "model/llava": "model/vision model/projector model/merge model/transfer images tokens config "
    "errors",
    "checkpoint/hub": "errors",
    "checkpoint/keys": "",
    "checkpoint/files": "json_files errors",
    "checkpoint/shards": "checkpoint/files json_files errors",
    "checkpoint/parts": "config",
    "checkpoint/refused": "errors",
    "checkpoint/processor": "checkpoint/parts checkpoint/refused images errors",
    "checkpoint/tower": "checkpoint/keys checkpoint/refused config json_files errors",
    "checkpoint/original": "checkpoint/hub checkpoint/keys checkpoint/files checkpoint/parts "
    "checkpoint/tower config errors",
    "checkpoint/lazy": "",
    "checkpoint/tables": "checkpoint/keys checkpoint/parts checkpoint/tokenizer_files tokens",
    "checkpoint/adapters": "checkpoint/files checkpoint/hugging_face "
    "checkpoint/hugging_face_keys checkpoint/keys checkpoint/lazy checkpoint/original "
    "checkpoint/parts checkpoint/tables config json_files tokens errors",
    "checkpoint/delta": "checkpoint/files checkpoint/keys checkpoint/lazy checkpoint/parts "
    "json_files errors",
    "checkpoint/destination": "checkpoint/hub errors",
    "checkpoint/hugging_face_keys": "checkpoint/keys",
    "checkpoint/hugging_face": "checkpoint/files checkpoint/hugging_face_keys checkpoint/keys "
    "checkpoint/refused checkpoint/parts checkpoint/tower images config json_files errors",
    "checkpoint/chat_template": "conversation errors",
    "checkpoint/generation": "checkpoint/parts conversation json_files errors",
    "checkpoint/tokenizer_files": "conversation json_files tokens errors",
    "checkpoint/layouts": "checkpoint/hugging_face checkpoint/parts checkpoint/tower config "
    "conversation images errors",
    "checkpoint/save": "checkpoint/adapters checkpoint/chat_template checkpoint/extra_tokens "
    "checkpoint/generation checkpoint/hub checkpoint/hugging_face checkpoint/hugging_face_keys "
    "checkpoint/keys checkpoint/layouts checkpoint/load checkpoint/parts checkpoint/shards "
    "checkpoint/tables checkpoint/template checkpoint/tokenizer_files "
    "config conversation images json_files templates tokens",
    "checkpoint/open": "checkpoint/adapters checkpoint/delta checkpoint/files checkpoint/hub "
    "checkpoint/hugging_face checkpoint/original checkpoint/parts errors",
    "checkpoint/placement": "config errors",
    "checkpoint/spread": "checkpoint/placement memory errors",
    "checkpoint/fingerprint": "checkpoint/generation checkpoint/parts checkpoint/tokenizer_files "
    "images",
    "checkpoint/template": "templates config errors",
    "checkpoint/extra_tokens": "config errors",
    "checkpoint/load": "checkpoint/keys checkpoint/lazy checkpoint/parts checkpoint/placement "
    "checkpoint/refused checkpoint/spread model/compiled model/llava model/mpt model/packed "
    "memory errors",
    "model/compiled": "errors",
    "model/packed": "",
    "model/together": "",
    "model/transfer": "",
    "generate/request": "errors",
    "generate/features": "images errors",
    "generate/feature_store": "model/vision errors",
    "generate/stopwatch": "",
    "generate/encoder": "generate/feature_store generate/features generate/plan "
    "generate/stopwatch images memory model/llava model/transfer threads errors",
    "generate/sampling": "generate/request",
    "generate/plan": "generate/request tokens",
    "generate/prompts": "generate/encoder generate/plan generate/request config conversation "
    "tokens errors",
    "generate/options": "generate/plan",
    "generate/beams": "generate/request model/transfer",
    "generate/cache": "model/transfer",
    "generate/prefixes": "generate/cache",
    "generate/sharing": "generate/prefixes model/transfer",
    "generate/shared_cache": "generate/cache generate/prefixes generate/sharing model/transfer",
    "generate/decoding": "generate/beams generate/cache generate/plan generate/prefixes "
    "generate/request generate/shared_cache",
    "generate/room": "",
    "generate/engine": "generate/beams generate/cache generate/decoding generate/options "
    "generate/plan generate/request generate/sampling generate/shared_cache model/llava "
    "model/transfer",
    "generate/schedule": "generate/engine generate/options generate/plan memory model/together "
    "errors",
    "generate/pipeline": "generate/engine generate/plan generate/schedule generate/stopwatch",
    "generate/session": "generate/cache generate/decoding generate/engine generate/plan "
    "generate/prefixes generate/room generate/schedule generate/shelf memory tokens",
    "generate/shelf": "generate/cache",
    "stream": "generate/engine generate/plan generate/request generate/session errors",
    "predict": "generate/encoder generate/engine generate/pipeline generate/plan "
    "generate/prompts generate/request stream generate/features generate/schedule "
    "generate/session generate/stopwatch checkpoint/generation checkpoint/load "
    "checkpoint/open checkpoint/parts checkpoint/placement checkpoint/processor "
    "checkpoint/template checkpoint/extra_tokens checkpoint/fingerprint model/llava "
    "model/transfer templates tokens config json_files errors",
    "tiny/__main__": "checkpoint/hub checkpoint/open checkpoint/save command images json_files "
    "threads tokens tiny/language tiny/samples tiny/tower tiny/vocabulary errors",
    "tiny/conversations": "conversation tiny/drawings tiny/questions",
    "tiny/drawings": "",
    "tiny/language": "tiny/vocabulary",
    "tiny/questions": "tiny/drawings",
    "tiny/samples": "tiny/conversations tiny/drawings tiny/questions",
    "tiny/tower": "images tiny/drawings",
    "tiny/vocabulary": "templates tiny/conversations tiny/drawings tiny/questions",
    "convert": "command checkpoint/adapters checkpoint/delta checkpoint/destination checkpoint/hub "
    "checkpoint/hugging_face checkpoint/keys checkpoint/lazy checkpoint/open checkpoint/original "
    "checkpoint/parts checkpoint/placement checkpoint/save",
    "data/check": "conversation data/labels data/records errors images",
    "data/collate": "data/dataset data/trees model/llava tokens",
    "data/dataset": "config conversation data/labels data/records errors "
    "images model/llava model/merge tokens",
    "data/labels": "conversation data/records errors tokens",
    "data/records": "conversation errors",
    "data/sampler": "",
    "data/trees": "data/dataset tokens",
    "serve/__main__": "command errors predict serve/access serve/batcher serve/chat "
    "serve/controller serve/heartbeat serve/listen serve/original serve/pictures serve/roster "
    "serve/web serve/web_client serve/worker threads",
    "serve/access": "serve/refusal",
    "serve/answering": "errors serve/conversation_log serve/picture_modes serve/pictures "
    "serve/talk serve/web_client",
    "serve/batcher": "errors generate/request predict stream",
    "serve/chat": "conversation errors generate/request images predict serve/pictures serve/schema "
    "stream",
    "serve/controller": "errors serve/access serve/forward serve/original serve/patience "
    "serve/refusal serve/roster serve/worker",
    "serve/conversation_log": "errors",
    "serve/example_pictures": "",
    "serve/forward": "serve/access serve/presence serve/refusal serve/roster serve/schema",
    "serve/heartbeat": "serve/access serve/roster",
    "serve/listen": "errors serve/patience",
    "serve/metrics": "",
    "serve/original": "conversation errors generate/request serve/access serve/pictures "
    "serve/refusal serve/roster serve/schema serve/worker",
    "serve/patience": "serve/refusal",
    "serve/picture_modes": "errors images serve/pictures",
    "serve/pictures": "errors images",
    "serve/presence": "serve/refusal",
    "serve/refusal": "errors",
    "serve/replies": "stream",
    "serve/roster": "",
    "serve/schema": "conversation",
    "serve/talk": "",
    "serve/web": "errors serve/answering serve/conversation_log serve/example_pictures "
    "serve/web_client serve/web_tab",
    "serve/web_client": "serve/schema",
    "serve/web_tab": "errors serve/answering serve/example_pictures serve/picture_modes "
    "serve/talk serve/web_client",
    "serve/worker": "errors generate/request stream serve/access serve/batcher serve/metrics "
    "serve/patience serve/pictures serve/presence serve/refusal serve/replies serve/schema",
    "train/__main__": "command data/check templates threads train/launch train/recipe train/run",
    "train/checkpoints": "checkpoint/adapters checkpoint/files checkpoint/keys checkpoint/lazy "
    "checkpoint/parts checkpoint/save train/stages errors",
    "train/engine": "errors json_files model/llava train/recipe",
    "train/flops": "config data/collate model/llava model/vision tokens",
    "train/launch": "",
    "train/loss": "images model/llava tokens train/rows",
    "train/recipe": "config errors templates",
    "train/run": "checkpoint/extra_tokens checkpoint/parts checkpoint/processor data/collate "
    "data/dataset data/records errors images model/llava templates tokens "
    "train/checkpoints train/engine train/launch train/loss train/recipe train/resume "
    "train/stages train/start train/trainer train/watch",
    "train/resume": "errors json_files",
    "train/rows": "model/llava tokens",
    "train/stages": "checkpoint/keys checkpoint/load checkpoint/parts checkpoint/placement "
    "errors model/llava train/recipe",
    "train/start": "checkpoint/adapters checkpoint/files checkpoint/hub checkpoint/keys "
    "checkpoint/open checkpoint/original checkpoint/parts checkpoint/tables checkpoint/tower "
    "config errors json_files model/projector templates train/recipe",
    "train/trainer": "checkpoint/placement data/collate data/dataset data/sampler errors "
    "json_files memory train/checkpoints train/flops train/loss train/recipe train/resume "
    "train/stages",
    "train/watch": "errors json_files train/checkpoints train/launch train/recipe",
}

LLAVA_EVAL = {
    "errors": "",
    "locks": "",
    "records": "",
    "resources": "errors",
    "spec": "errors",
    "registry": "spec submit prompts metrics/__init__ sources/llava_layout sources/hub_rows "
    "sources/tsv_rows resources errors",
    "faults": "",
    "json_text": "",
    "sources/files": "json_text faults spec errors",
    "sources/mmbench": "sources/files spec records errors",
    "sources/vqa": "sources/files sources/questions extract spec records",
    "sources/llava_layout": "sources/vqa sources/files sources/mmbench sources/questions extract "
    "spec records errors sources/scienceqa sources/seed sources/mme "
    "sources/open_ended sources/qbench",
    "sources/open_ended": "sources/files sources/questions spec records errors",
    "sources/qbench": "sources/files spec records errors",
    "sources/scienceqa": "sources/files spec records errors",
    "sources/seed": "sources/files sources/questions spec records errors",
    "sources/mme": "sources/files sources/questions sources/vqa spec records errors",
    "sources/questions": "sources/files records",
    "sources/parquet": "errors",
    "sources/hub_rows": "sources/parquet sources/vqa sources/mmbench sources/scienceqa "
    "sources/seed sources/mme sources/open_ended records",
    "sources/hub": "sources/hub_rows sources/parquet sources/seed sources/files spec "
    "records errors",
    "sources/tsv_rows": "sources/vqa sources/mmbench sources/scienceqa sources/seed sources/mme "
    "sources/open_ended records",
    "sources/tsv": "sources/tsv_rows sources/files spec records errors",
    "sources/open": "sources/files sources/llava_layout sources/hub sources/tsv mini/write spec "
    "records errors",
    "mini/scenes": "",
    "mini/files": "",
    "mini/vqa": "mini/files mini/scenes sources/vqa",
    "mini/yes_no": "mini/files mini/scenes sources/vqa",
    "mini/choice": "mini/files mini/scenes sources/mmbench",
    "mini/letter": "mini/files mini/scenes sources/scienceqa sources/seed",
    "mini/mme": "mini/files mini/scenes sources/mme",
    "mini/write": "mini/__init__ mini/vqa mini/yes_no mini/choice mini/files resources errors "
    "mini/letter mini/mme mini/open_ended mini/quality",
    "mini/open_ended": "mini/files mini/scenes",
    "mini/quality": "mini/files mini/scenes",
    "fetch/catalogue": "spec errors",
    "fetch/contents": "fetch/catalogue sources/files errors",
    "fetch/verify": "fetch/catalogue fetch/contents errors",
    "fetch/archives": "fetch/catalogue errors",
    "fetch/download": "json_text fetch/archives fetch/verify errors",
    "fetch/watch": "fetch/download",
    "fetch/plan": "fetch/archives fetch/catalogue fetch/download fetch/verify locks errors",
    "prompts": "extract spec records errors",
    "store": "faults json_text locks records errors",
    "leases": "records",
    "logs": "",
    "backends/base": "records errors",
    "backends/local": "backends/base leases records errors",
    "backends/pace": "",
    "backends/completion": "json_text",
    "backends/refusal": "",
    "backends/endpoint": "backends/completion backends/pace backends/refusal errors",
    "backends/openai": "pictures backends/base backends/completion backends/endpoint leases "
    "records errors",
    "backends/worker": "backends/base logs records errors",
    "backends/board": "backends/base records",
    "backends/launched": "backends/base backends/board backends/worker leases records errors",
    "backends/together": "backends/base backends/board backends/launched records",
    "backends/team": "backends/base backends/worker leases records errors",
    "backends/processes": "backends/worker records",
    "backends/ray_crew": "backends/worker logs records errors",
    "backends/replay": "backends/base store records errors",
    "run": "backends/base pictures store records errors",
    "extract": "",
    "metrics/base": "metrics/paired metrics/statistics records",
    "metrics/paired": "metrics/statistics",
    "metrics/statistics": "records",
    "metrics/normalize": "",
    "metrics/vqa": "metrics/base metrics/statistics metrics/normalize records",
    "metrics/vqa_official": "metrics/base metrics/normalize metrics/vqa records",
    "metrics/gqa": "metrics/base metrics/statistics extract records",
    "metrics/choice": "metrics/base metrics/paired metrics/statistics extract records",
    "metrics/binary": "metrics/base metrics/paired metrics/statistics errors extract records",
    "metrics/letter": "metrics/base metrics/paired metrics/statistics extract records",
    "metrics/mme": "metrics/base metrics/paired metrics/statistics extract records",
    "metrics/__init__": "metrics/base metrics/vqa metrics/vqa_official metrics/gqa metrics/choice "
    "metrics/binary metrics/letter metrics/mme metrics/candidate "
    "metrics/capability metrics/relative",
    "metrics/candidate": "metrics/base extract records",
    "metrics/capability": "metrics/base metrics/statistics records",
    "metrics/relative": "metrics/base metrics/paired metrics/statistics records",
    "answers": "json_text extract faults records errors",
    "ensemble": "json_text answers extract records errors",
    "mme_results": "sources/mme records errors",
    "score": "metrics/__init__ metrics/base spec store records",
    "submit": "metrics/normalize sources/files sources/mmbench extract spec records errors",
    "results": "json_text records errors",
    "verdicts": "json_text faults records errors",
    "leaderboard": "spec records",
    "compare": "metrics/__init__ metrics/base metrics/paired records spec errors",
    "compare_text": "compare leaderboard records",
    "compare_report": "baseline compare compare_text errors pages records spec store",
    "baseline": "json_text compare metrics/__init__ records results spec store errors",
    "policy": "spec errors",
    "gate": "compare compare_text leaderboard metrics/paired policy records",
    "quick": "baseline metrics/__init__ metrics/base metrics/paired policy records spec",
    "ci": "gate leaderboard",
    "review/agreement": "",
    "review/grader": "errors review/requests",
    "review/judge": "backends/completion backends/pace backends/refusal errors",
    "review/labels": "",
    "review/ledger": "json_text errors locks records review/prompt review/verdict store",
    "review/price": "",
    "review/prompt": "review/rules",
    "review/questions": "errors records review/prompt review/rules sources/files",
    "review/requests": "records review/ledger review/prompt review/questions review/rules "
    "review/verdict",
    "review/rules": "errors sources/files",
    "review/session": "errors records review/judge review/ledger review/price review/prompt",
    "review/summary": "errors metrics/base metrics/paired metrics/relative metrics/statistics "
    "records review/agreement verdicts",
    "review/tables": "metrics/paired pages records review/labels review/summary",
    "review/page": "errors metrics/statistics pages pictures records review/labels review/summary "
    "store verdicts",
    "review/tasks": "answers errors records review/grader review/ledger review/questions "
    "review/requests review/rules",
    "review/verdict": "",
    "pages": "leaderboard resources",
    "svg": "",
    "plots": "gate leaderboard pages records svg",
    "card": "leaderboard records",
    "history": "baseline errors gate leaderboard plots policy spec",
    "history_report": "gate history leaderboard pages plots policy report spec",
    "samples": "leaderboard pages results store spec records",
    "pictures": "errors records",
    "report": "card leaderboard pages plots results samples store spec records errors",
    "view/shelf": "json_text errors leaderboard report results samples",
    "view/gallery": "errors records results samples sources/open spec view/shelf",
    "view/app": "baseline compare_report errors pages pictures samples spec view/gallery "
    "view/shelf",
    "manifest": "json_text results store spec records errors",
    "plan": "baseline manifest metrics/__init__ prompts sources/open spec records errors",
    "progress": "backends/base",
    "table": "leaderboard spec records",
    "commands/arguments": "errors",
    "commands/backend": "commands/arguments backends/base backends/launched backends/local "
    "backends/openai backends/processes backends/ray_crew backends/team backends/together "
    "backends/worker records errors",
    "commands/task_judge": "commands/arguments commands/judging errors manifest metrics/__init__ "
    "plan records review/judge review/ledger review/requests review/session review/tasks verdicts",
    "commands/run": "commands/arguments commands/backend commands/task_judge review/tasks "
    "backends/base baseline errors manifest metrics/__init__ "
    "plan progress registry report results run score store table spec records",
    "commands/score": "commands/arguments answers compare ensemble manifest prompts records "
    "registry results score sources/open table spec errors mme_results metrics/__init__ verdicts",
    "commands/submit": "commands/arguments answers prompts registry results sources/open store "
    "submit errors",
    "commands/report": "baseline commands/arguments errors history history_report policy registry "
    "report results spec",
    "commands/view": "commands/arguments errors registry report results spec view/app view/shelf",
    "commands/compare": "commands/arguments baseline compare compare_report compare_text registry "
    "table errors",
    "commands/check": "commands/arguments baseline ci compare compare_text gate leaderboard pages "
    "policy quick registry spec store table errors",
    "commands/tasks": "commands/arguments leaderboard prompts registry sources/open spec table",
    "commands/data": "commands/arguments fetch/catalogue fetch/download fetch/plan fetch/verify "
    "fetch/watch mini/write table errors",
    "commands/gpt_review": "answers commands/arguments commands/judging errors manifest "
    "review/ledger review/price review/questions review/requests review/session "
    "review/summary review/tables sources/open",
    "commands/judging": "commands/arguments errors progress review/judge review/ledger "
    "review/price review/session store verdicts",
    "commands/summarize": "commands/arguments errors pages review/ledger review/page "
    "review/summary review/tables sources/files",
    "cli": "commands/arguments errors",
    "__main__": "cli logs",
}

ALLOWED = {
    package: {
        name: {f"{package}/{other}" for other in names.split()} for name, names in table.items()
    }
    for package, table in (("llava_core", LLAVA_CORE), ("llava_eval", LLAVA_EVAL))
}
ALLOWED["llava_eval"]["backends/local"] |= {
    "llava_core/__init__",
    "llava_core/conversation",
    "llava_core/errors",
    "llava_core/images",
    "llava_core/predict",
    "llava_core/threads",
}
