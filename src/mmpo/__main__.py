from mmpo.cli import main

main()
