BEGIN TRANSACTION;
CREATE TABLE certificates (
	serial VARCHAR NOT NULL, 
	plant VARCHAR NOT NULL, 
	expires DATETIME NOT NULL, 
	PRIMARY KEY (serial), 
	FOREIGN KEY(plant) REFERENCES plants (name)
);
INSERT INTO "certificates" VALUES('a0','aachen','2026-12-26 05:21:10.988817');
INSERT INTO "certificates" VALUES('a1','brno','2026-12-26 05:21:10.988817');
INSERT INTO "certificates" VALUES('b1','brno','2026-12-26 05:21:10.988817');
CREATE TABLE deployments (
	release VARCHAR NOT NULL, 
	plant VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	updated DATETIME NOT NULL, 
	PRIMARY KEY (release, plant), 
	FOREIGN KEY(release) REFERENCES releases (id), 
	FOREIGN KEY(plant) REFERENCES plants (name)
);
INSERT INTO "deployments" VALUES('turbofan-20261001-080000-aaaa','aachen','active','','2026-11-26 05:21:11.216794');
INSERT INTO "deployments" VALUES('turbofan-20261001-080000-aaaa','brno','refused','worse','2026-11-26 05:21:11.212749');
INSERT INTO "deployments" VALUES('turbofan-20261002-080000-bbbb','brno','received','','2026-11-26 05:21:11.236839');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	time DATETIME NOT NULL, 
	kind VARCHAR NOT NULL, 
	subject VARCHAR NOT NULL, 
	text VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "events" VALUES(1,'2026-11-26 05:21:10.989112','federation.created','acme','plants dial coordinator.example:7443');
INSERT INTO "events" VALUES(2,'2026-11-26 05:21:10.995760','plant.invited','aachen','join file until 2026-12-26 05:21:10 UTC');
INSERT INTO "events" VALUES(3,'2026-11-26 05:21:11.005554','plant.enrolled','aachen','');
INSERT INTO "events" VALUES(4,'2026-11-26 05:21:11.008784','plant.invited','brno','join file until 2026-12-26 05:21:10 UTC');
INSERT INTO "events" VALUES(5,'2026-11-26 05:21:11.011127','plant.enrolled','brno','');
INSERT INTO "events" VALUES(6,'2026-11-26 05:21:11.017681','plant.invited','cadiz','join file until 2026-12-26 05:21:10 UTC');
INSERT INTO "events" VALUES(7,'2026-11-26 05:21:11.022809','plant.enrolled','cadiz','');
INSERT INTO "events" VALUES(8,'2026-11-26 05:21:11.030989','plant.invited','dover','join file until 2026-12-26 05:21:10 UTC');
INSERT INTO "events" VALUES(9,'2026-11-26 05:21:11.036054','plant.renewed','brno','until 2026-12-26 05:21:10 UTC');
INSERT INTO "events" VALUES(10,'2026-11-26 05:21:11.042893','plant.revoked','cadiz','decommissioned');
INSERT INTO "events" VALUES(11,'2026-11-26 05:21:11.168872','run.queued','20261001-080000-aaaa','task turbofan, 2 rounds');
INSERT INTO "events" VALUES(12,'2026-11-26 05:21:11.174392','run.running','20261001-080000-aaaa','');
INSERT INTO "events" VALUES(13,'2026-11-26 05:21:11.197659','run.finished','20261001-080000-aaaa','');
INSERT INTO "events" VALUES(14,'2026-11-26 05:21:11.202483','release.created','turbofan-20261001-080000-aaaa','manifest abababababababababababababababababababababababababababababababab');
INSERT INTO "events" VALUES(15,'2026-11-26 05:21:11.209002','deployment','aachen','turbofan-20261001-080000-aaaa received');
INSERT INTO "events" VALUES(16,'2026-11-26 05:21:11.213243','deployment','brno','turbofan-20261001-080000-aaaa refused: worse');
INSERT INTO "events" VALUES(17,'2026-11-26 05:21:11.217356','deployment','aachen','turbofan-20261001-080000-aaaa active');
INSERT INTO "events" VALUES(18,'2026-11-26 05:21:11.220880','run.queued','20261002-080000-bbbb','task turbofan, 7 rounds');
INSERT INTO "events" VALUES(19,'2026-11-26 05:21:11.225454','run.running','20261002-080000-bbbb','');
INSERT INTO "events" VALUES(20,'2026-11-26 05:21:11.229266','run.finished','20261002-080000-bbbb','');
INSERT INTO "events" VALUES(21,'2026-11-26 05:21:11.233953','release.created','turbofan-20261002-080000-bbbb','manifest cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd');
INSERT INTO "events" VALUES(22,'2026-11-26 05:21:11.237516','deployment','brno','turbofan-20261002-080000-bbbb received');
INSERT INTO "events" VALUES(23,'2026-11-26 05:21:11.240911','run.queued','20261003-080000-cccc','task turbofan, 2 rounds');
INSERT INTO "events" VALUES(24,'2026-11-26 05:21:11.245368','run.running','20261003-080000-cccc','');
INSERT INTO "events" VALUES(25,'2026-11-26 05:21:11.249311','run.paused','20261003-080000-cccc','too few plants answered');
CREATE TABLE invitations (
	serial VARCHAR NOT NULL, 
	plant VARCHAR NOT NULL, 
	created DATETIME NOT NULL, 
	expires DATETIME NOT NULL, 
	used_at DATETIME, 
	withdrawn_at DATETIME, 
	"key" VARCHAR, 
	certificate VARCHAR, 
	PRIMARY KEY (serial)
);
INSERT INTO "invitations" VALUES('f0','aachen','2026-11-26 05:21:10.992810','2026-12-26 05:21:10.988817','2026-11-26 05:21:11.000831',NULL,'key-a0','-----BEGIN CERTIFICATE-----
a0
-----END CERTIFICATE-----
');
INSERT INTO "invitations" VALUES('f1','brno','2026-11-26 05:21:11.007984','2026-12-26 05:21:10.988817','2026-11-26 05:21:11.009516',NULL,'key-a1','-----BEGIN CERTIFICATE-----
a1
-----END CERTIFICATE-----
');
INSERT INTO "invitations" VALUES('f2','cadiz','2026-11-26 05:21:11.016798','2026-12-26 05:21:10.988817','2026-11-26 05:21:11.020788',NULL,'key-a2','-----BEGIN CERTIFICATE-----
a2
-----END CERTIFICATE-----
');
INSERT INTO "invitations" VALUES('f9','dover','2026-11-26 05:21:11.030104','2026-12-26 05:21:10.988817',NULL,NULL,NULL,NULL);
CREATE TABLE plants (
	name VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	node_id BIGINT NOT NULL, 
	enrolled_at DATETIME NOT NULL, 
	last_seen DATETIME, 
	protocol VARCHAR, 
	PRIMARY KEY (name), 
	UNIQUE (node_id)
);
INSERT INTO "plants" VALUES('aachen','enrolled',623694327396631729,'2026-11-26 05:21:11.000831','2026-11-26 05:21:11.006898','5');
INSERT INTO "plants" VALUES('brno','enrolled',3362661174083588592,'2026-11-26 05:21:11.009516','2026-11-26 05:21:11.011824','5');
INSERT INTO "plants" VALUES('cadiz','revoked',3710016915868534707,'2026-11-26 05:21:11.020788','2026-11-26 05:21:11.028912','5');
CREATE TABLE releases (
	id VARCHAR NOT NULL, 
	run VARCHAR, 
	task VARCHAR NOT NULL, 
	manifest_sha256 VARCHAR NOT NULL, 
	created DATETIME NOT NULL, 
	state VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "releases" VALUES('turbofan-20261001-080000-aaaa','20261001-080000-aaaa','turbofan','abababababababababababababababababababababababababababababababab','2026-11-26 05:21:11.200807','ready');
INSERT INTO "releases" VALUES('turbofan-20261002-080000-bbbb','20261002-080000-bbbb','turbofan','cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','2026-11-26 05:21:11.232948','ready');
CREATE TABLE rounds (
	run VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	participants JSON NOT NULL, 
	dropped JSON NOT NULL, 
	seconds JSON NOT NULL, 
	recorded DATETIME NOT NULL, 
	PRIMARY KEY (run, round, attempt), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
INSERT INTO "rounds" VALUES('20261001-080000-aaaa',1,1,'["aachen"]','[{"plant": "brno", "code": "deadline", "sentence": "it did not answer in time"}]','{"total": 3.5}','2026-11-26 05:21:11.181214');
INSERT INTO "rounds" VALUES('20261001-080000-aaaa',1,2,'["aachen", "brno"]','[]','{"total": 2.5}','2026-11-26 05:21:11.188911');
INSERT INTO "rounds" VALUES('20261001-080000-aaaa',2,1,'["aachen", "brno"]','[]','{"total": 2.25}','2026-11-26 05:21:11.192831');
CREATE TABLE runs (
	id VARCHAR NOT NULL, 
	task_name VARCHAR NOT NULL, 
	task JSON NOT NULL, 
	config JSON NOT NULL, 
	state VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	rounds INTEGER NOT NULL, 
	created DATETIME NOT NULL, 
	started DATETIME, 
	finished DATETIME, 
	reason VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "runs" VALUES('20261001-080000-aaaa','turbofan','{"name": "turbofan", "rounds": 20, "seed": 0, "contract": {"version": 1, "machine": "machine", "time": "cycle", "clock": "count", "zone": "UTC", "interval": 1.0, "gap": 0.0, "hold": 0.0, "late": 0.0, "ahead": 60.0, "cycle": "", "label": "rul", "never": [], "strays": 0.01, "settings": {"setting1": {"unit": "kft", "low": 0.0, "high": 42.0}, "setting2": {"unit": "Mach", "low": 0.0, "high": 0.84}, "setting3": {"unit": "degree", "low": 60.0, "high": 100.0}}, "sensors": {"s2": {"unit": "\u00b0R", "low": 535.7, "high": 643.8}, "s3": {"unit": "\u00b0R", "low": 1245.0, "high": 1605.0}, "s4": {"unit": "\u00b0R", "low": 1029.0, "high": 1430.0}, "s7": {"unit": "psia", "low": 136.8, "high": 566.0}, "s8": {"unit": "rpm", "low": 1914.9, "high": 2388.4}, "s9": {"unit": "rpm", "low": 7990.0, "high": 9140.0}, "s11": {"unit": "psia", "low": 36.1, "high": 48.2}, "s12": {"unit": "pps/psi", "low": 128.9, "high": 533.0}, "s13": {"unit": "rpm", "low": 2027.8, "high": 2389.1}, "s14": {"unit": "rpm", "low": 7856.0, "high": 8210.0}, "s15": {"unit": "ratio", "low": 8.22, "high": 11.02}, "s17": {"unit": "Btu/lb", "low": 303.0, "high": 397.0}, "s20": {"unit": "lbm/s", "low": 10.29, "high": 39.6}, "s21": {"unit": "lbm/s", "low": 6.17, "high": 23.71}}, "conditions": [{"name": "sea-level", "centre": {"setting1": 0.0, "setting2": 0.0, "setting3": 100.0}, "ranges": {"s2": [641.2, 643.8], "s3": [1572.0, 1605.0], "s4": [1385.0, 1430.0], "s7": [550.0, 566.0], "s8": [2387.2, 2388.4], "s9": [9020.0, 9140.0], "s11": [46.8, 48.2], "s12": [518.0, 533.0], "s13": [2387.2, 2388.4], "s14": [8110.0, 8210.0], "s15": [8.22, 8.53], "s17": [389.0, 397.0], "s20": [38.3, 39.6], "s21": [22.99, 23.71]}}, {"name": "10kft", "centre": {"setting1": 10.0, "setting2": 0.25, "setting3": 100.0}, "ranges": {"s2": [603.4, 606.0], "s3": [1484.0, 1516.0], "s4": [1287.0, 1331.0], "s7": [391.0, 403.0], "s8": [2318.5, 2319.5], "s9": [8750.0, 8850.0], "s11": [44.7, 46.1], "s12": [369.0, 380.0], "s13": [2387.7, 2388.7], "s14": [8100.0, 8190.0], "s15": [8.45, 8.76], "s17": [365.0, 373.0], "s20": [28.1, 29.1], "s21": [16.87, 17.43]}}, {"name": "20kft", "centre": {"setting1": 20.0, "setting2": 0.7, "setting3": 100.0}, "ranges": {"s2": [606.1, 608.6], "s3": [1467.0, 1499.0], "s4": [1229.0, 1272.0], "s7": [331.0, 342.0], "s8": [2323.5, 2324.6], "s9": [8690.0, 8790.0], "s11": [43.7, 45.1], "s12": [311.0, 322.0], "s13": [2387.6, 2388.8], "s14": [8039.0, 8117.0], "s15": [8.99, 9.33], "s17": [361.0, 369.0], "s20": [24.0, 25.0], "s21": [14.44, 14.95]}}, {"name": "25kft", "centre": {"setting1": 25.0, "setting2": 0.62, "setting3": 60.0}, "ranges": {"s2": [535.7, 537.7], "s3": [1245.0, 1275.0], "s4": [1029.0, 1066.0], "s7": [173.7, 178.7], "s8": [1914.9, 1916.3], "s9": [7990.0, 8059.0], "s11": [36.1, 37.3], "s12": [163.0, 167.7], "s13": [2027.8, 2029.2], "s14": [7856.0, 7919.0], "s15": [10.65, 11.02], "s17": [303.0, 310.0], "s20": [13.96, 14.58], "s21": [8.37, 8.75]}}, {"name": "35kft", "centre": {"setting1": 35.0, "setting2": 0.84, "setting3": 100.0}, "ranges": {"s2": [554.4, 556.8], "s3": [1348.0, 1380.0], "s4": [1108.0, 1149.0], "s7": [192.3, 198.8], "s8": [2222.5, 2224.0], "s9": [8320.0, 8420.0], "s11": [41.2, 42.6], "s12": [181.0, 187.2], "s13": [2387.6, 2389.1], "s14": [8045.0, 8125.0], "s15": [9.06, 9.42], "s17": [330.0, 337.0], "s20": [14.52, 15.17], "s21": [8.71, 9.11]}}, {"name": "42kft", "centre": {"setting1": 42.0, "setting2": 0.84, "setting3": 100.0}, "ranges": {"s2": [548.3, 550.7], "s3": [1336.0, 1368.0], "s4": [1104.0, 1146.0], "s7": [136.8, 141.8], "s8": [2211.3, 2212.9], "s9": [8290.0, 8390.0], "s11": [41.4, 42.8], "s12": [128.9, 133.6], "s13": [2387.3, 2389.0], "s14": [8060.0, 8150.0], "s15": [9.09, 9.47], "s17": [327.0, 334.0], "s20": [10.29, 10.88], "s21": [6.17, 6.53]}}]}, "window": {"length": 30, "stride": 1, "features": []}, "split": {"by": "unit", "holdout": 0.2}, "target": {"cap": 125.0, "kind": "time_to_failure", "low": 0.0, "high": 1.0, "horizon": 0.0, "classes": []}, "model": {"name": "cnn1d", "args": {}}, "training": {"steps": 15, "batch": 256, "optimizer": "adam", "learning_rate": 0.004, "loss": "mse"}, "privacy": {"mechanism": "dp-sgd", "engine": "auto", "unit": "window", "windows_per_unit": 8, "clipping": "norm", "clip": 0.5, "noise": 2.0, "delta": 1e-05}, "strategy": {"name": "fedavg", "args": {}}, "metrics": {}}','{"release": true, "start_from": ""}','finished',2,2,'2026-11-26 05:21:11.168537','2026-11-26 05:21:11.174435','2026-11-26 05:21:11.197709','');
INSERT INTO "runs" VALUES('20261002-080000-bbbb','turbofan','{"name": "turbofan", "rounds": 7, "seed": 0, "contract": {"version": 1, "machine": "machine", "time": "cycle", "clock": "count", "zone": "UTC", "interval": 1.0, "gap": 0.0, "hold": 0.0, "late": 0.0, "ahead": 60.0, "cycle": "", "label": "rul", "never": [], "strays": 0.01, "settings": {"setting1": {"unit": "kft", "low": 0.0, "high": 42.0}, "setting2": {"unit": "Mach", "low": 0.0, "high": 0.84}, "setting3": {"unit": "degree", "low": 60.0, "high": 100.0}}, "sensors": {"s2": {"unit": "\u00b0R", "low": 535.7, "high": 643.8}, "s3": {"unit": "\u00b0R", "low": 1245.0, "high": 1605.0}, "s4": {"unit": "\u00b0R", "low": 1029.0, "high": 1430.0}, "s7": {"unit": "psia", "low": 136.8, "high": 566.0}, "s8": {"unit": "rpm", "low": 1914.9, "high": 2388.4}, "s9": {"unit": "rpm", "low": 7990.0, "high": 9140.0}, "s11": {"unit": "psia", "low": 36.1, "high": 48.2}, "s12": {"unit": "pps/psi", "low": 128.9, "high": 533.0}, "s13": {"unit": "rpm", "low": 2027.8, "high": 2389.1}, "s14": {"unit": "rpm", "low": 7856.0, "high": 8210.0}, "s15": {"unit": "ratio", "low": 8.22, "high": 11.02}, "s17": {"unit": "Btu/lb", "low": 303.0, "high": 397.0}, "s20": {"unit": "lbm/s", "low": 10.29, "high": 39.6}, "s21": {"unit": "lbm/s", "low": 6.17, "high": 23.71}}, "conditions": [{"name": "sea-level", "centre": {"setting1": 0.0, "setting2": 0.0, "setting3": 100.0}, "ranges": {"s2": [641.2, 643.8], "s3": [1572.0, 1605.0], "s4": [1385.0, 1430.0], "s7": [550.0, 566.0], "s8": [2387.2, 2388.4], "s9": [9020.0, 9140.0], "s11": [46.8, 48.2], "s12": [518.0, 533.0], "s13": [2387.2, 2388.4], "s14": [8110.0, 8210.0], "s15": [8.22, 8.53], "s17": [389.0, 397.0], "s20": [38.3, 39.6], "s21": [22.99, 23.71]}}, {"name": "10kft", "centre": {"setting1": 10.0, "setting2": 0.25, "setting3": 100.0}, "ranges": {"s2": [603.4, 606.0], "s3": [1484.0, 1516.0], "s4": [1287.0, 1331.0], "s7": [391.0, 403.0], "s8": [2318.5, 2319.5], "s9": [8750.0, 8850.0], "s11": [44.7, 46.1], "s12": [369.0, 380.0], "s13": [2387.7, 2388.7], "s14": [8100.0, 8190.0], "s15": [8.45, 8.76], "s17": [365.0, 373.0], "s20": [28.1, 29.1], "s21": [16.87, 17.43]}}, {"name": "20kft", "centre": {"setting1": 20.0, "setting2": 0.7, "setting3": 100.0}, "ranges": {"s2": [606.1, 608.6], "s3": [1467.0, 1499.0], "s4": [1229.0, 1272.0], "s7": [331.0, 342.0], "s8": [2323.5, 2324.6], "s9": [8690.0, 8790.0], "s11": [43.7, 45.1], "s12": [311.0, 322.0], "s13": [2387.6, 2388.8], "s14": [8039.0, 8117.0], "s15": [8.99, 9.33], "s17": [361.0, 369.0], "s20": [24.0, 25.0], "s21": [14.44, 14.95]}}, {"name": "25kft", "centre": {"setting1": 25.0, "setting2": 0.62, "setting3": 60.0}, "ranges": {"s2": [535.7, 537.7], "s3": [1245.0, 1275.0], "s4": [1029.0, 1066.0], "s7": [173.7, 178.7], "s8": [1914.9, 1916.3], "s9": [7990.0, 8059.0], "s11": [36.1, 37.3], "s12": [163.0, 167.7], "s13": [2027.8, 2029.2], "s14": [7856.0, 7919.0], "s15": [10.65, 11.02], "s17": [303.0, 310.0], "s20": [13.96, 14.58], "s21": [8.37, 8.75]}}, {"name": "35kft", "centre": {"setting1": 35.0, "setting2": 0.84, "setting3": 100.0}, "ranges": {"s2": [554.4, 556.8], "s3": [1348.0, 1380.0], "s4": [1108.0, 1149.0], "s7": [192.3, 198.8], "s8": [2222.5, 2224.0], "s9": [8320.0, 8420.0], "s11": [41.2, 42.6], "s12": [181.0, 187.2], "s13": [2387.6, 2389.1], "s14": [8045.0, 8125.0], "s15": [9.06, 9.42], "s17": [330.0, 337.0], "s20": [14.52, 15.17], "s21": [8.71, 9.11]}}, {"name": "42kft", "centre": {"setting1": 42.0, "setting2": 0.84, "setting3": 100.0}, "ranges": {"s2": [548.3, 550.7], "s3": [1336.0, 1368.0], "s4": [1104.0, 1146.0], "s7": [136.8, 141.8], "s8": [2211.3, 2212.9], "s9": [8290.0, 8390.0], "s11": [41.4, 42.8], "s12": [128.9, 133.6], "s13": [2387.3, 2389.0], "s14": [8060.0, 8150.0], "s15": [9.09, 9.47], "s17": [327.0, 334.0], "s20": [10.29, 10.88], "s21": [6.17, 6.53]}}]}, "window": {"length": 30, "stride": 1, "features": []}, "split": {"by": "unit", "holdout": 0.2}, "target": {"cap": 125.0, "kind": "time_to_failure", "low": 0.0, "high": 1.0, "horizon": 0.0, "classes": []}, "model": {"name": "cnn1d", "args": {}}, "training": {"steps": 15, "batch": 256, "optimizer": "adam", "learning_rate": 0.004, "loss": "mse"}, "privacy": {"mechanism": "dp-sgd", "engine": "auto", "unit": "window", "windows_per_unit": 8, "clipping": "norm", "clip": 0.5, "noise": 2.0, "delta": 1e-05}, "strategy": {"name": "fedavg", "args": {}}, "metrics": {}}','{"release": true, "start_from": "turbofan-20261001-080000-aaaa"}','finished',7,7,'2026-11-26 05:21:11.220758','2026-11-26 05:21:11.225498','2026-11-26 05:21:11.229300','');
INSERT INTO "runs" VALUES('20261003-080000-cccc','turbofan','{"name": "turbofan", "rounds": 20, "seed": 0, "contract": {"version": 1, "machine": "machine", "time": "cycle", "clock": "count", "zone": "UTC", "interval": 1.0, "gap": 0.0, "hold": 0.0, "late": 0.0, "ahead": 60.0, "cycle": "", "label": "rul", "never": [], "strays": 0.01, "settings": {"setting1": {"unit": "kft", "low": 0.0, "high": 42.0}, "setting2": {"unit": "Mach", "low": 0.0, "high": 0.84}, "setting3": {"unit": "degree", "low": 60.0, "high": 100.0}}, "sensors": {"s2": {"unit": "\u00b0R", "low": 535.7, "high": 643.8}, "s3": {"unit": "\u00b0R", "low": 1245.0, "high": 1605.0}, "s4": {"unit": "\u00b0R", "low": 1029.0, "high": 1430.0}, "s7": {"unit": "psia", "low": 136.8, "high": 566.0}, "s8": {"unit": "rpm", "low": 1914.9, "high": 2388.4}, "s9": {"unit": "rpm", "low": 7990.0, "high": 9140.0}, "s11": {"unit": "psia", "low": 36.1, "high": 48.2}, "s12": {"unit": "pps/psi", "low": 128.9, "high": 533.0}, "s13": {"unit": "rpm", "low": 2027.8, "high": 2389.1}, "s14": {"unit": "rpm", "low": 7856.0, "high": 8210.0}, "s15": {"unit": "ratio", "low": 8.22, "high": 11.02}, "s17": {"unit": "Btu/lb", "low": 303.0, "high": 397.0}, "s20": {"unit": "lbm/s", "low": 10.29, "high": 39.6}, "s21": {"unit": "lbm/s", "low": 6.17, "high": 23.71}}, "conditions": [{"name": "sea-level", "centre": {"setting1": 0.0, "setting2": 0.0, "setting3": 100.0}, "ranges": {"s2": [641.2, 643.8], "s3": [1572.0, 1605.0], "s4": [1385.0, 1430.0], "s7": [550.0, 566.0], "s8": [2387.2, 2388.4], "s9": [9020.0, 9140.0], "s11": [46.8, 48.2], "s12": [518.0, 533.0], "s13": [2387.2, 2388.4], "s14": [8110.0, 8210.0], "s15": [8.22, 8.53], "s17": [389.0, 397.0], "s20": [38.3, 39.6], "s21": [22.99, 23.71]}}, {"name": "10kft", "centre": {"setting1": 10.0, "setting2": 0.25, "setting3": 100.0}, "ranges": {"s2": [603.4, 606.0], "s3": [1484.0, 1516.0], "s4": [1287.0, 1331.0], "s7": [391.0, 403.0], "s8": [2318.5, 2319.5], "s9": [8750.0, 8850.0], "s11": [44.7, 46.1], "s12": [369.0, 380.0], "s13": [2387.7, 2388.7], "s14": [8100.0, 8190.0], "s15": [8.45, 8.76], "s17": [365.0, 373.0], "s20": [28.1, 29.1], "s21": [16.87, 17.43]}}, {"name": "20kft", "centre": {"setting1": 20.0, "setting2": 0.7, "setting3": 100.0}, "ranges": {"s2": [606.1, 608.6], "s3": [1467.0, 1499.0], "s4": [1229.0, 1272.0], "s7": [331.0, 342.0], "s8": [2323.5, 2324.6], "s9": [8690.0, 8790.0], "s11": [43.7, 45.1], "s12": [311.0, 322.0], "s13": [2387.6, 2388.8], "s14": [8039.0, 8117.0], "s15": [8.99, 9.33], "s17": [361.0, 369.0], "s20": [24.0, 25.0], "s21": [14.44, 14.95]}}, {"name": "25kft", "centre": {"setting1": 25.0, "setting2": 0.62, "setting3": 60.0}, "ranges": {"s2": [535.7, 537.7], "s3": [1245.0, 1275.0], "s4": [1029.0, 1066.0], "s7": [173.7, 178.7], "s8": [1914.9, 1916.3], "s9": [7990.0, 8059.0], "s11": [36.1, 37.3], "s12": [163.0, 167.7], "s13": [2027.8, 2029.2], "s14": [7856.0, 7919.0], "s15": [10.65, 11.02], "s17": [303.0, 310.0], "s20": [13.96, 14.58], "s21": [8.37, 8.75]}}, {"name": "35kft", "centre": {"setting1": 35.0, "setting2": 0.84, "setting3": 100.0}, "ranges": {"s2": [554.4, 556.8], "s3": [1348.0, 1380.0], "s4": [1108.0, 1149.0], "s7": [192.3, 198.8], "s8": [2222.5, 2224.0], "s9": [8320.0, 8420.0], "s11": [41.2, 42.6], "s12": [181.0, 187.2], "s13": [2387.6, 2389.1], "s14": [8045.0, 8125.0], "s15": [9.06, 9.42], "s17": [330.0, 337.0], "s20": [14.52, 15.17], "s21": [8.71, 9.11]}}, {"name": "42kft", "centre": {"setting1": 42.0, "setting2": 0.84, "setting3": 100.0}, "ranges": {"s2": [548.3, 550.7], "s3": [1336.0, 1368.0], "s4": [1104.0, 1146.0], "s7": [136.8, 141.8], "s8": [2211.3, 2212.9], "s9": [8290.0, 8390.0], "s11": [41.4, 42.8], "s12": [128.9, 133.6], "s13": [2387.3, 2389.0], "s14": [8060.0, 8150.0], "s15": [9.09, 9.47], "s17": [327.0, 334.0], "s20": [10.29, 10.88], "s21": [6.17, 6.53]}}]}, "window": {"length": 30, "stride": 1, "features": []}, "split": {"by": "unit", "holdout": 0.2}, "target": {"cap": 125.0, "kind": "time_to_failure", "low": 0.0, "high": 1.0, "horizon": 0.0, "classes": []}, "model": {"name": "cnn1d", "args": {}}, "training": {"steps": 15, "batch": 256, "optimizer": "adam", "learning_rate": 0.004, "loss": "mse"}, "privacy": {"mechanism": "dp-sgd", "engine": "auto", "unit": "window", "windows_per_unit": 8, "clipping": "norm", "clip": 0.5, "noise": 2.0, "delta": 1e-05}, "strategy": {"name": "fedavg", "args": {}}, "metrics": {}}','{"release": false, "start_from": ""}','paused',0,2,'2026-11-26 05:21:11.240779','2026-11-26 05:21:11.245404',NULL,'too few plants answered');
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE INDEX ix_invitations_plant ON invitations (plant);
CREATE INDEX ix_runs_state ON runs (state);
CREATE INDEX ix_events_subject ON events (subject);
CREATE TRIGGER events_no_update BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events BEGIN SELECT RAISE(ABORT, 'events are never changed'); END;
CREATE INDEX ix_certificates_plant ON certificates (plant);
COMMIT;
